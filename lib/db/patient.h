/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_PATIENT_H
#define MQFS_DB_PATIENT_H

#include <stddef.h>

/*
 * Zeroed memory, never NULL: for the request of a caller that can't even ask and so can't be told so, since completions
 * come from the thread that it would ask. Some hundred bytes are soon to be had again, or the kernel ends somebody.
 */
void *patient_alloc(size_t bytes);

#endif
