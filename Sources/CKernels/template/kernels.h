// All kernels, compiled for the including file's instruction set.

#include "vectors.h"

#include "quantised.h"

#include "dense.h"

#include "attention.h"

#include "latent.h"

#include "selection.h"

#include "elementwise.h"

#include "table.h"
