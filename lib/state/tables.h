/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_TABLES_H
#define MQFS_STATE_TABLES_H

#include "db/schema.h"

/* What is in a state file. */
extern const struct schema state_schema;

#endif
