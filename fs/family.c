/* SPDX-License-Identifier: MIT */
#include "family.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"

#define GENERATIONS 32 /* deeper process trees are cut off at the old end */
#define REMEMBERED 256

struct member {
	pid_t pid;
	unsigned long long start;
};

struct family {
	atomic_uint references;
	size_t count;
	char name[16];
	struct member members[GENERATIONS]; /* the taker first, then its parent, … */
};

/*
 * A worker takes thousands of messages: its ancestors are read once. An entry is right as long as pid and
 * start time are the worker's; that ancestors die in between is what family_includes expects anyway.
 */
static struct {
	pthread_mutex_t lock;
	struct family *families[REMEMBERED]; /* guarded by lock; one reference each */
} remembered = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct family *family_ref(struct family *family)
{
	if (family)
		atomic_fetch_add(&family->references, 1);
	return family;
}

void family_unref(void *family)
{
	struct family *f = family;
	if (f && atomic_fetch_sub(&f->references, 1) == 1)
		free(f);
}

static struct family *recall(pid_t pid, unsigned long long start)
{
	pthread_mutex_lock(&remembered.lock);
	struct family *family = remembered.families[pid % REMEMBERED];
	bool same = family && family->members[0].pid == pid && family->members[0].start == start;
	family = same ? family_ref(family) : NULL;
	pthread_mutex_unlock(&remembered.lock);
	return family;
}

static void remember(struct family *family)
{
	struct family **slot = &remembered.families[family->members[0].pid % REMEMBERED];
	pthread_mutex_lock(&remembered.lock);
	struct family *old = *slot;
	*slot = family_ref(family);
	pthread_mutex_unlock(&remembered.lock);
	family_unref(old);
}

struct family *family_of(pid_t tid)
{
	struct proc_identity taker;
	if (proc_identify(tid, &taker) < 0)
		return NULL;

	struct family *family = recall(taker.pid, taker.start);
	/* The same process may run another program by now: only its name is different. */
	if (family && strcmp(family->name, taker.name) == 0)
		return family;
	family_unref(family);

	pid_t pid = taker.pid;
	struct proc_stat stat;
	if (proc_stat(pid, &stat) < 0)
		return NULL;
	family = calloc(1, sizeof(*family));
	if (!family)
		return NULL;
	atomic_init(&family->references, 1);
	memcpy(family->name, stat.name, sizeof(family->name));
	do {
		family->members[family->count++] = (struct member){pid, stat.start};
		pid = stat.parent;
	} while (pid > 0 && family->count < GENERATIONS && proc_stat(pid, &stat) == 0);
	remember(family);
	return family;
}

pid_t family_taker(const struct family *family)
{
	return family->members[0].pid;
}

static bool is_member(const struct family *family, pid_t pid, unsigned long long start)
{
	for (size_t i = 0; i < family->count; i++) {
		if (family->members[i].pid == pid)
			return family->members[i].start == start;
	}
	return false;
}

static pid_t nearest_alive(const struct family *family)
{
	for (size_t i = 0; i < family->count; i++) {
		const struct member *member = &family->members[i];
		struct proc_stat stat;
		if (proc_stat(member->pid, &stat) == 0 && stat.start == member->start && stat.state != 'Z' &&
		    stat.state != 'X')
			return member->pid;
	}
	return 0;
}

bool family_includes(const struct family *family, pid_t tid)
{
	if (!family)
		return false;
	struct proc_identity caller;
	if (proc_identify(tid, &caller) < 0)
		return false;
	if (is_member(family, caller.pid, caller.start))
		return true;

	struct proc_stat stat;
	pid_t pid = caller.pid;
	pid_t head = nearest_alive(family);
	if (head == 0)
		return false;
	for (int depth = 0; pid > 0 && depth < 4 * GENERATIONS; depth++) {
		if (pid == head)
			return true;
		if (proc_stat(pid, &stat) < 0)
			return false;
		pid = stat.parent;
	}
	return false;
}

void family_describe(const struct family *family, char *buffer, size_t bytes)
{
	snprintf(buffer, bytes, "pid %d (%s)", (int)family->members[0].pid, family->name);
}
