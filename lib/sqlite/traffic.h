/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_TRAFFIC_H
#define MQFS_SQLITE_TRAFFIC_H

#include "internal.h"
#include "request.h"

/* What requests want of messages; as in queues.h. */
int traffic_publish(struct store *store, struct request *request);
int traffic_settle(struct store *store, struct request *request);
int traffic_browse(struct store *store, struct request *request);

#endif
