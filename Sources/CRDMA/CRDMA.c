#include "CRDMA.h"
