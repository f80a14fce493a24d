// What a process sets up about itself and Swift cannot: crash reports in signal handlers, and descriptor limits.
#pragma once

#include <stdint.h>

/// From now on a fatal signal (SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT) writes a short report to standard error,
/// without any contents of memory, and ends the process at once by that signal's default action.
void host_report_crashes(const char *process);

/// Raises the soft limit of open descriptors to the hard one, at most `wanted`; the soft limit there is now.
uint64_t host_raise_descriptor_limit(uint64_t wanted);

/// Not 0 when this signal is ignored.
int host_ignores(int signal);
