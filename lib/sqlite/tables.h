/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_TABLES_H
#define MQFS_SQLITE_TABLES_H

#include "db/schema.h"

/* What is in the embedded store's file. */
extern const struct schema sqlite_schema;

#endif
