/* SPDX-License-Identifier: MIT */
#ifndef FS_PROC_H
#define FS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * What /proc tells about a caller. A FUSE request carries a thread id; 0 means a process that this
 * daemon's pid namespace can't name. Everything here may fail, since the process may be gone or closed
 * to us (hidepid, another user without CAP_SYS_PTRACE): then the answer is "don't know", never a guess.
 * No lock may be held: these read files.
 */

struct proc_stat {
	pid_t parent;
	char state;               /* 'R', 'S', 'Z', … */
	unsigned long flags;      /* PF_… of the kernel's task_struct */
	unsigned long long start; /* clock ticks after boot: with the pid it names a process for ever */
	int exit_code;            /* wait(2) status; a fatal signal's number while exiting */
	char name[16];
};

/* 0, or -ESRCH. Accepts a thread id. */
int proc_stat(pid_t pid, struct proc_stat *ret_stat);

/* The thread group of a thread: 0 when it can't be told. proc_ask_tgid() asks the kernel each time. */
pid_t proc_tgid(pid_t tid);
pid_t proc_ask_tgid(pid_t tid);

struct proc_identity {
	pid_t pid; /* thread group */
	unsigned long long start;
	char name[16]; /* of a second ago at most */
};

/* Which process a thread is of: cheaper than proc_stat() for one that calls often. 0, or -ESRCH. */
int proc_identify(pid_t tid, struct proc_identity *ret_identity);

/* Is this thread exiting because of a fatal signal? If so and ret_signal, which. */
bool proc_killed(pid_t tid, int *ret_signal);

/*
 * Is SIGKILL pending for the thread? The kernel puts it there for every fatal signal, so this tells a
 * signal that ends the caller from one that only interrupts it (fs/fuse/dev.c sends INTERRUPT for both). A thread
 * that has ended was dying; one of which nothing can be told (another pid namespace, no descriptor left) is not.
 */
bool proc_dying(pid_t tid);

/* Does the process hold a descriptor of the file with this inode number? 1, 0, or -errno when it can't be told. */
int proc_holds(pid_t pid, uint64_t ino);

/* The process or thread that was made last, as far as this daemon's pid namespace knows. 0: can't be told. */
pid_t proc_newest(void);

/*
 * Calls each for the processes that were made after since was the newest (0: for all); stops and returns what each
 * returns when that is not 0. -errno when it can't be told.
 */
int proc_each_since(pid_t since, int (*each)(pid_t pid, void *arg), void *arg);

#endif
