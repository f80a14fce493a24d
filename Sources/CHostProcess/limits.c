#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>

#include "CHostProcess.h"

uint64_t host_raise_descriptor_limit(uint64_t wanted) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
    rlim_t most = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (limit.rlim_cur < most) {
        struct rlimit raised = {.rlim_cur = most, .rlim_max = limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) return most;
    }
    return limit.rlim_cur;
}

int host_ignores(int signal) {
    struct sigaction action;
    return sigaction(signal, 0, &action) == 0 && action.sa_handler == SIG_IGN;
}
