"""Finds the CUDA toolkit: $CUDA_HOME, else /usr/local/cuda. Without one the repository is empty, so that builds for CPUs
need none; bazel/cuda.bzl says what is missing when device code is asked for.
"""

def _cuda_toolkit_impl(repository_ctx):
    home = ""
    for candidate in [repository_ctx.os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]:
        if not home and candidate and repository_ctx.path(candidate + "/bin/nvcc").exists:
            home = candidate
    repository_ctx.file("location.bzl", 'CUDA_HOME = "%s"\n' % home)
    if not home:
        repository_ctx.file("BUILD", """
cc_library(
    name = "runtime",
    visibility = ["//visibility:public"],
)
""")
        return
    repository_ctx.symlink(home + "/include", "include")
    library_folder = "lib64" if repository_ctx.path(home + "/lib64").exists else "lib"
    repository_ctx.symlink(home + "/" + library_folder + "/libcudart_static.a", "libcudart_static.a")
    repository_ctx.file("BUILD", """
cc_library(
    name = "runtime",
    srcs = ["libcudart_static.a"],
    hdrs = glob(["include/*.h", "include/crt/*.h", "include/*.hpp", "include/crt/*.hpp"]),
    linkopts = ["-ldl", "-lrt", "-pthread"],
    linkstatic = True,
    includes = ["include"],
    visibility = ["//visibility:public"],
)
""")

cuda_toolkit = repository_rule(
    implementation = _cuda_toolkit_impl,
    environ = ["CUDA_HOME"],
    local = True,
)
