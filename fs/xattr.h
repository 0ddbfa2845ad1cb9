/* SPDX-License-Identifier: MIT */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include "fuse.h"

/* Extended attributes, "user.mqfs.NAME": libfuse's operations, which ask the kind of the node for NAME. */
void xattr_set(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void xattr_get(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void xattr_list(fuse_req_t req, fuse_ino_t ino, size_t size);
void xattr_remove(fuse_req_t req, fuse_ino_t ino, const char *name);

#endif
