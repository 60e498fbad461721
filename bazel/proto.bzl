"""C++ from .proto files by the distribution's protoc. `NAME_proto` has the messages, `NAME_grpc` the services."""

def _outs(name, suffixes):
    return [name + suffix for suffix in suffixes]

def outrider_proto(name, deps = [], services = False, visibility = None):
    """Messages of NAME.proto as :NAME_proto and, with services = True, its gRPC code as :NAME_grpc.

    Args:
      name: the file's name without .proto.
      deps: names (without .proto) of the files of this package it imports.
      services: whether it declares services.
      visibility: as everywhere.
    """
    source = name + ".proto"
    imports = [dep + ".proto" for dep in deps]
    native.filegroup(name = name + "_source", srcs = [source], visibility = visibility)
    native.genrule(
        name = name + "_proto_gen",
        srcs = [source] + native.glob(["*.proto"], exclude = [source]),
        outs = _outs(name, [".pb.h", ".pb.cc"]),
        cmd = "protoc -I. --cpp_out=$(GENDIR) $(location %s)" % source,
    )
    native.cc_library(
        name = name + "_proto",
        srcs = [name + ".pb.cc"],
        hdrs = [name + ".pb.h"],
        deps = [":%s_proto" % dep for dep in deps] + ["@protobuf//:protobuf"],
        visibility = visibility,
    )
    if services:
        native.genrule(
            name = name + "_grpc_gen",
            srcs = [source] + native.glob(["*.proto"], exclude = [source]),
            outs = _outs(name, [".grpc.pb.h", ".grpc.pb.cc"]),
            cmd = "protoc -I. --plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) --grpc_out=$(GENDIR) $(location %s)" % source,
        )
        native.cc_library(
            name = name + "_grpc",
            srcs = [name + ".grpc.pb.cc"],
            hdrs = [name + ".grpc.pb.h"],
            deps = [":%s_proto" % name, "@grpc//:grpc"],
            visibility = visibility,
        )
