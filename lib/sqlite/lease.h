/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_LEASE_H
#define MQFS_SQLITE_LEASE_H

#include "internal.h"

/* When lease_keep has something to do next (monotonic ms, MQFS_NEVER). */
int64_t lease_next(const struct store *store, int64_t now_ms);

/*
 * Makes the file say that this mount lives and what it consumes, or, when it neither consumes nor
 * holds anything, nothing at all; and gives back what mounts hold whose lease is over. A transaction
 * of its own. 0, also when it finds that our own lease was over (then intake_lost was called); a negative errno.
 */
int lease_keep(struct store *store);

/* Within a writing transaction: may this mount take messages? */
bool lease_holds(const struct store *store);

/* Gives everything back and removes the mount. 0 or a negative errno. */
int lease_end(struct store *store);

#endif
