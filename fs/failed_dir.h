/* SPDX-License-Identifier: MIT */
#ifndef FS_FAILED_DIR_H
#define FS_FAILED_DIR_H

#include "node.h"

/* retry/ and dead/ (the object, a slot, tells which): NAME/body, NAME/meta.json, NAME/error. Looking settles nothing.
 */
extern const struct node_ops failed_dir_ops;

#endif
