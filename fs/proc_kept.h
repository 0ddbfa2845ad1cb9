/* SPDX-License-Identifier: MIT */
#ifndef FS_PROC_KEPT_H
#define FS_PROC_KEPT_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * A thread that calls again and again, a worker's or a producer's: its directories in /proc are kept open, so that
 * the questions of every open, close and removal (P8, C3, C4) cost no walk of a path each. What is kept names the
 * thread itself, not its number: when it has gone the descriptors answer ESRCH or ENOENT, also when another thread has
 * the number by then. Private to proc.c. Thread-safe; no lock may be held, these read files.
 */
struct proc_kept {
	pid_t tid;
	pid_t tgid;
	unsigned long long start; /* of the thread group's leader, as in proc_stat */
	char name[16];            /* of the leader, when it was looked at (not longer than a second ago) */
	int fds;                  /* /proc/TID/fd */
};

/*
 * What is kept of this thread: a reference, or NULL when it did not ask often enough yet, is gone, or is closed to us.
 * ret_has_files: it has open descriptors for sure, hence is not exiting (do_exit() lets go of its files first, and its
 * closes come after that); from Linux 6.2 on, where st_size of /proc/PID/fd counts them. May be NULL.
 */
struct proc_kept *proc_kept_get(pid_t tid, bool *ret_has_files);
void proc_kept_put(struct proc_kept *kept); /* NULL is fine */

/* The kept directory of descriptors from its start, for one reader at a time. */
int proc_kept_rewind_fds(struct proc_kept *kept);
void proc_kept_end_fds(struct proc_kept *kept);

#endif
