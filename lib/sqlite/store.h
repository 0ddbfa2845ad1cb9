/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_STORE_H
#define MQFS_SQLITE_STORE_H

#include <mqfs/backend.h>
#include <mqfs/settings.h>

/*
 * Opens the embedded store in the file path, which is made (0600, its parent directories 0700) when
 * it isn't there. Blocks at most about connect-timeout. 0, or a negative errno with *ret_error a new
 * string for people; a file that is damaged (-EIO), somebody else's (-EINVAL) or newer than this
 * program (-EOPNOTSUPP) is refused and left as it is. settings are copied.
 */
int mqfs_sqlite_open(const char *path, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                     char **ret_error);

#endif
