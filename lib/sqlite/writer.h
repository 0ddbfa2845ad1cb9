/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_WRITER_H
#define MQFS_SQLITE_WRITER_H

#include "internal.h"
#include "request.h"

/* Starts the thread. 0 or a negative errno. */
int writer_start(struct store *store);
/* Hands a request over; its completion runs on the writer's thread. */
void writer_submit(struct store *store, struct request *request);
/* Ends it: all requests complete, what is held goes back. Blocks for some seconds at most. */
void writer_stop(struct store *store);

#endif
