"""The house's C++ rules: warnings, visibility and test defaults in one place."""

_COPTS = ["-Wall", "-Wextra", "-Werror", "-Wno-sign-compare", "-Wno-missing-field-initializers"]

def outrider_cc_library(name, copts = [], **kwargs):
    native.cc_library(name = name, copts = _COPTS + copts, **kwargs)

def outrider_cc_binary(name, copts = [], **kwargs):
    native.cc_binary(name = name, copts = _COPTS + copts, **kwargs)

def outrider_cc_test(name, deps = [], copts = [], size = "small", **kwargs):
    """A GoogleTest program. Tag "notsan" when it reaches gRPC or absl synchronization."""
    native.cc_test(
        name = name,
        size = size,
        copts = _COPTS + copts,
        deps = deps + ["@gtest//:gtest_main"],
        **kwargs
    )
