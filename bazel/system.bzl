"""The distribution's libraries as external repositories: @grpc, @protobuf, @absl, ...

Each is a view of /usr with a BUILD file of its own from //bazel/third_party. Headers are on the compiler's default
path already, so a wrapper only names what to link.
"""

SYSTEM_LIBRARIES = [
    "absl",
    "benchmark",
    "boost",
    "cli11",
    "grpc",
    "gtest",
    "highway",
    "json",
    "libedit",
    "openssl",
    "pcre2",
    "prometheus",
    "protobuf",
    "utf8proc",
    "yaml_cpp",
]

def system_libraries():
    for name in SYSTEM_LIBRARIES:
        native.new_local_repository(
            name = name,
            path = "bazel/third_party/none",
            build_file = "//bazel/third_party:%s.BUILD" % name,
        )
