/* SPDX-License-Identifier: MIT */
#ifndef MQFS_HASH_H
#define MQFS_HASH_H

/*
 * uthash ends the process when memory is short, unless told to leave the element out: then its hh.tbl is NULL, for
 * which every HASH_ADD in lib/ looks.
 */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#endif
