/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_QUEUES_H
#define MQFS_SQLITE_QUEUES_H

#include "internal.h"
#include "request.h"

/*
 * What requests want of queues. Each runs within a transaction and sets the request's outcome; a
 * negative result is a failure that undoes the transaction.
 */
int queues_declare(struct store *store, struct request *request);
int queues_find(struct store *store, struct request *request);
int queues_delete(struct store *store, struct request *request);
int queues_list(struct store *store, struct request *request);
int queues_depths(struct store *store, struct request *request);

#endif
