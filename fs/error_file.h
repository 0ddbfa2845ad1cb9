/* SPDX-License-Identifier: MIT */
#ifndef FS_ERROR_FILE_H
#define FS_ERROR_FILE_H

#include "node.h"

/*
 * claimed/X.error and pending/X.error: writing sets the failure's reason (C6), of which the last 4 KiB are
 * kept, as in `handler <claimed/X 2>claimed/X.error`. Never listed; it is there when X is.
 * object: struct mqfs_delivery.
 */
extern const struct node_ops error_file_ops;

#define ERROR_SUFFIX ".error"

#endif
