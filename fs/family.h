/* SPDX-License-Identifier: MIT */
#ifndef FS_FAMILY_H
#define FS_FAMILY_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Who took a delivery, and who may settle it through the name pending/X (C4): the taker, its ancestors
 * as they were at the take, and all descendants of the nearest of these that is still alive. So in
 *
 *	for f in $(ls pending); do handler <pending/$f && rm pending/$f || mv pending/$f retry/; done
 *
 * rm and mv, children of the shell that forked the handler, may settle what the handler opened, and
 * the same loop run by another shell may not. Reads /proc: no lock may be held.
 */
struct family;

/* The family of the calling thread, counted (a process's family is remembered while it lives). NULL when the
 * caller can't be seen or memory is out: then nobody is family. */
struct family *family_of(pid_t tid);
struct family *family_ref(struct family *family);
void family_unref(void *family); /* takes NULL */

pid_t family_taker(const struct family *family); /* its process id */

/* May this thread's process settle what family took? False for who can't be seen. */
bool family_includes(const struct family *family, pid_t tid);

/* "pid 4711 (sh)" */
void family_describe(const struct family *family, char *buffer, size_t bytes);

#endif
