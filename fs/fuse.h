/* SPDX-License-Identifier: MIT */
#ifndef FS_FUSE_H
#define FS_FUSE_H

/* libfuse's low-level API; FUSE_USE_VERSION comes from the build. */
#include <fuse3/fuse_lowlevel.h>

#endif
