// `assertionFailure` does nothing, as in what is shipped. `-assert-config Release` turns off `assert`, but a module that
// is not optimised calls the standard library's own `assertionFailure`, which always traps. gRPC calls it where a
// stream is closed under a message that is still to be written, as a cancel may do, and then fails that message. Preloaded:
//
//     clang -shared -fPIC -O1 -o no_assertion_failures.so no_assertion_failures.c
//
// The name is Swift's ABI for `assertionFailure(_:file:line:)`; its arguments are not looked at.
#define NAME "$ss16assertionFailure_4file4lineySSyXK_s12StaticStringVSutF"

__attribute__((swiftcall)) void assertion_failure(void) __asm__(NAME);
__attribute__((swiftcall)) void assertion_failure(void) {}
