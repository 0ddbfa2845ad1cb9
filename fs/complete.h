/* SPDX-License-Identifier: MIT */
#ifndef FS_COMPLETE_H
#define FS_COMPLETE_H

#include <stdint.h>
#include <sys/types.h>

/*
 * Is a file complete (P8)? FLUSH comes for every close() of every copy of a descriptor, in every process
 * that has one; the file is complete in that close() by which the process that opened it lets go of its
 * last one, with nobody left who was handed one:
 *
 *	echo x >f	open, dup2, close (nothing written: not yet), write, dup2 over it (complete)
 *	(a; b) >f	a's and b's exits flush too (not the opener), then the shell's close (complete)
 *	Popen(stdout=f)	the parent closes first while the child holds one (the child's exit is the end,
 *			and RELEASE tells)
 *
 * The descriptor being closed has left the table before FLUSH is sent (fs/open.c, filp_flush), so looking
 * at /proc/PID/fd answers the question. No lock may be held: this reads files.
 */

enum completion {
	COMPLETE_NO, /* somebody still holds it, or it can't be told: RELEASE will */
	COMPLETE_YES,
	COMPLETE_KILLED, /* the closer is being ended by a signal: what it wrote may be half of it */
};

#define COMPLETE_WRITERS 16

struct writers {
	pid_t opener; /* thread group; 0: can't be seen */
	unsigned count;
	pid_t others[COMPLETE_WRITERS]; /* other threads that wrote (each stands for its process) */
};

/* Remembers who writes. tid is the request's thread. */
void writers_note(struct writers *writers, pid_t tid);

enum completion complete_check(const struct writers *writers, pid_t tid, uint64_t ino);

#endif
