/* SPDX-License-Identifier: MIT */
#ifndef FS_COMPLETE_H
#define FS_COMPLETE_H

#include <stdbool.h>
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
 * at /proc/PID/fd answers the question. Whoever was handed a descriptor by fork() is newer than the open(), so
 * that only processes made since then are looked at, and most often there are none; whoever got it in another way
 * (SCM_RIGHTS) is known once it has written. No lock may be held where it says that files are read.
 */

enum completion {
	COMPLETE_NO, /* somebody still holds it, or it can't be told: RELEASE will */
	COMPLETE_YES,
	COMPLETE_KILLED, /* the closer is being ended by a signal: what it wrote may be half of it */
};

#define COMPLETE_WRITERS 16

/* Who has written through a file. All ids but last_tid are thread groups'. */
struct writers {
	pid_t opener;   /* 0: can't be seen */
	pid_t newest;   /* the newest process when it was opened; 0: can't be told */
	pid_t last_tid; /* the thread that wrote last */
	unsigned count;
	pid_t others[COMPLETE_WRITERS];
	bool crowded; /* there were more than fit */
};

/* A file is opened. newest is proc_newest() of then, or of a moment before. */
void writers_begin(struct writers *writers, pid_t opener, pid_t newest);

/* A thread writes. tgid is its proc_tgid(), for which writers_know() tells whether it needs to be asked. */
bool writers_know(const struct writers *writers, pid_t tid);
void writers_note(struct writers *writers, pid_t tid, pid_t tgid);

/* What the close() by tid means for the file with the inode number ino. Reads files. */
enum completion complete_check(const struct writers *writers, pid_t tid, uint64_t ino);

/* Has everybody closed it, so that only RELEASE, which the kernel sends in its own time, is missing? Reads files. */
bool complete_is_let_go(const struct writers *writers, uint64_t ino);

#endif
