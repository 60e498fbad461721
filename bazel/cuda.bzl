"""CUDA: the only file that knows nvcc.

The toolkit is found by cuda_toolkit.bzl.

cuda_library()  device code as a cc_library. Only built under --config=cuda (.bazelrc): pick it by
                select({"//bazel:cuda": [...], "//conditions:default": [...]}).
cuda_test()     a GoogleTest program that needs a GPU: built by tests/gpu/build.sh, run by tests/gpu/run.sh.
"""

load("@cuda_toolkit//:location.bzl", "CUDA_HOME")
load("//bazel:cc.bzl", "outrider_cc_binary", "outrider_cc_library", "outrider_cc_test")

# Hopper's own instructions (wgmma, setmaxnreg) need the "a" target. No contraction of a * b + c: an fma is written as
# __fmaf_rn where it is meant, so two instantiations of a kernel give the same bits.
_NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-fmad=false",
    "--expt-relaxed-constexpr",
    "-Werror=all-warnings",
    "-Xcompiler=-fPIC,-Wall,-Wextra,-Wno-missing-field-initializers,-Wno-unused-parameter",
]

def _cuda_objects_impl(ctx):
    if not CUDA_HOME:
        fail("no CUDA toolkit: neither CUDA_HOME nor /usr/local/cuda holds bin/nvcc; set CUDA_HOME to a toolkit of " +
             "version 13, or build without --config=cuda")
    contexts = [dep[CcInfo].compilation_context for dep in ctx.attr.deps]
    headers = depset(ctx.files.hdrs, transitive = [context.headers for context in contexts])
    objects = []
    for source in ctx.files.srcs:
        out = ctx.actions.declare_file(source.basename + ".pic.o")
        arguments = ctx.actions.args()
        arguments.add_all(_NVCC_FLAGS)
        arguments.add("-I.")
        arguments.add("-c", source)
        arguments.add("-o", out)
        ctx.actions.run(
            executable = CUDA_HOME + "/bin/nvcc",
            arguments = [arguments],
            inputs = depset([source], transitive = [headers]),
            outputs = [out],
            mnemonic = "Nvcc",
            progress_message = "Compiling device code %s" % source.short_path,
            use_default_shell_env = True,
        )
        objects.append(out)
    return [DefaultInfo(files = depset(objects))]

_cuda_objects = rule(
    implementation = _cuda_objects_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def cuda_library(name, srcs, hdrs = [], plain_srcs = [], deps = [], tags = [], **kwargs):
    """`srcs` are .cu files, `plain_srcs` .cc; `hdrs` need no toolkit, .cuh files are for other device code."""
    _cuda_objects(
        name = name + "_objects",
        srcs = srcs,
        hdrs = hdrs,
        deps = deps,
        tags = tags + ["cuda", "manual"],
    )
    native.cc_library(
        name = name,
        srcs = [":" + name + "_objects"] + plain_srcs,
        hdrs = hdrs,
        deps = deps + ["@cuda_toolkit//:runtime"],
        tags = tags + ["cuda", "manual"],
        **kwargs
    )

def cuda_cc_library(name, deps = [], tags = [], **kwargs):
    """Host code that calls the CUDA runtime."""
    outrider_cc_library(
        name = name,
        deps = deps + ["@cuda_toolkit//:runtime"],
        tags = tags + ["cuda", "manual"],
        **kwargs
    )

def cuda_test(name, deps = [], tags = [], **kwargs):
    outrider_cc_test(
        name = name,
        deps = deps + ["@cuda_toolkit//:runtime"],
        tags = tags + ["cuda", "gpu", "manual", "notsan"],
        **kwargs
    )

def cuda_binary(name, deps = [], tags = [], **kwargs):
    outrider_cc_binary(
        name = name,
        deps = deps + ["@cuda_toolkit//:runtime"],
        tags = tags + ["cuda", "manual"],
        **kwargs
    )
