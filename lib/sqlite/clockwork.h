/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_CLOCKWORK_H
#define MQFS_SQLITE_CLOCKWORK_H

#include "internal.h"

/*
 * What time does to messages: those in retry come back when their time has come, those that expire
 * end. Every mount looks after the whole store; whoever is first does it.
 */

/* When something is due next (real time, µs; INT64_MAX: never), or a negative errno. */
int64_t clockwork_next(struct store *store);

/* Does what is due now, some hundred messages at a time, in a transaction of its own. 1: there may be more. */
int clockwork_run(struct store *store);

#endif
