// Only what is async-signal-safe is called between the signal and the end: the heap may be broken. `backtrace` is
// called once beforehand, since its first call loads a library.
#define _GNU_SOURCE
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "CHostProcess.h"

static char process_name[32] = "process";
static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT};

static const char *signal_name(int number) {
    switch (number) {
    case SIGSEGV: return "SIGSEGV";
    case SIGBUS: return "SIGBUS";
    case SIGILL: return "SIGILL";
    case SIGTRAP: return "SIGTRAP";
    case SIGFPE: return "SIGFPE";
    default: return "SIGABRT";
    }
}

static void put(const char *text, size_t length) {
    while (length > 0) {
        ssize_t count = write(STDERR_FILENO, text, length);
        if (count <= 0) return;
        text += count;
        length -= (size_t)count;
    }
}

static void put_text(const char *text) { put(text, strlen(text)); }

static void put_hexadecimal(uintptr_t value) {
    char digits[2 + 2 * sizeof value];
    size_t length = sizeof digits;
    for (size_t i = length; i-- > 2; value >>= 4) digits[i] = "0123456789abcdef"[value & 15];
    digits[0] = '0';
    digits[1] = 'x';
    put(digits, length);
}

static void report(int number, siginfo_t *info, void *context) {
    (void)context;
    // Whoever reads standard error may not read: then SIGALRM ends the process.
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(SIGALRM, &standard, 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    alarm(1);

    char thread[16] = "?";
    int file = open("/proc/thread-self/comm", O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t count = read(file, thread, sizeof thread - 1);
        if (count > 0) thread[count - 1] = 0;
        close(file);
    }
    put_text("\n");
    put_text(process_name);
    put_text(": crashed: ");
    put_text(signal_name(number));
    put_text(" in thread ");
    put_text(thread);
    if (number == SIGSEGV || number == SIGBUS) {
        put_text(", address ");
        put_hexadecimal((uintptr_t)info->si_addr);
    }
    put_text("\nFrames, for addr2line or llvm-symbolizer with the same executable:\n");
    void *frames[64];
    int count = backtrace(frames, 64);
    backtrace_symbols_fd(frames, count, STDERR_FILENO);

    sigaction(number, &standard, 0);
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    raise(number);
    _exit(128 + number);
}

void host_report_crashes(const char *process) {
    strncpy(process_name, process, sizeof process_name - 1);
    void *frame;
    backtrace(&frame, 1);
    // A thread whose stack has overflown has no room for the handler; this one at least has its own.
    static char stack[64 * 1024];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, 0);
    struct sigaction action = {.sa_sigaction = report, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof fatal_signals / sizeof fatal_signals[0]; i++) {
        sigaction(fatal_signals[i], &action, 0);
    }
}
