/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_TWIN_H
#define MQFS_STATE_TWIN_H

#include <mqfs/name.h>

#include "internal.h"

/* Names of entries: "x~3" is twin 3 of "x". One name has one reading, so equal names are equal pairs. */
struct twin {
	mqfs_name_t base;
	int64_t number; /* 1: the base alone */
};

void twin_write(const char *base, int64_t number, mqfs_name_t ret_name);

/*
 * Within a transaction: the name itself where it is free in this line and priority, or is id's own; else the twin after
 * the last, without looking at the others, however many there are. 0 or a negative errno.
 */
int twin_choose(struct mqfs_state *state, int64_t line, int priority, const char *name, int64_t id,
                struct twin *ret_twin);

#endif
