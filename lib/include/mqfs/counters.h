/* SPDX-License-Identifier: MIT */
#ifndef MQFS_COUNTERS_H
#define MQFS_COUNTERS_H

#include <stdatomic.h>

/* What happened to one queue through this mount since it was mounted (M5). Only ever added to. */
struct mqfs_counters {
	atomic_ullong published; /* publications tried */
	atomic_ullong confirmed;
	atomic_ullong returned; /* unroutable */
	atomic_ullong nacked;   /* refused: full */
	atomic_ullong delivered;
	atomic_ullong redelivered;
	atomic_ullong acked;
	atomic_ullong retried;
	atomic_ullong dead_lettered;
	atomic_ullong expired_claims;
	atomic_ullong prefetch_full; /* times the window became full */
};

#endif
