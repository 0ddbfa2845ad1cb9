/* SPDX-License-Identifier: MIT */
#include "complete.h"

#include <errno.h>
#include <stddef.h>

#include "proc.h"

#define ANCESTORS_MAX 64

void writers_begin(struct writers *writers, pid_t opener, pid_t newest)
{
	*writers = (struct writers){.opener = opener, .newest = newest};
}

bool writers_know(const struct writers *writers, pid_t tid)
{
	return tid == 0 || tid == writers->opener || tid == writers->last_tid;
}

static bool is_writer(const struct writers *writers, pid_t tgid)
{
	for (unsigned i = 0; i < writers->count; i++) {
		if (writers->others[i] == tgid)
			return true;
	}
	return tgid == writers->opener;
}

void writers_note(struct writers *writers, pid_t tid, pid_t tgid)
{
	if (writers_know(writers, tid))
		return;
	writers->last_tid = tid;
	if (tgid == 0 || is_writer(writers, tgid))
		return;
	if (writers->count < COMPLETE_WRITERS)
		writers->others[writers->count++] = tgid;
	else
		writers->crowded = true;
}

/* One that may not be inspected may hold it. */
static bool may_hold(pid_t pid, uint64_t ino)
{
	int holds = proc_holds(pid, ino);
	return holds > 0 || (holds < 0 && holds != -ENOENT && holds != -ESRCH);
}

/* Of a process that has been orphaned this can't be told. */
static bool descends_from(pid_t pid, pid_t ancestor)
{
	struct proc_stat stat;
	for (int i = 0; i < ANCESTORS_MAX && pid > 1 && proc_stat(pid, &stat) == 0; i++) {
		pid = stat.parent;
		if (pid == ancestor)
			return true;
	}
	return false;
}

struct search {
	pid_t opener;
	uint64_t ino;
};

/* There are always processes of others that may not be inspected: only those of the opener's own family count. */
static int heir_holds(pid_t pid, void *arg)
{
	const struct search *search = arg;
	int holds = proc_holds(pid, search->ino);
	if (holds >= 0)
		return holds;
	return holds != -ENOENT && holds != -ESRCH && descends_from(pid, search->opener);
}

static bool somebody_holds(const struct writers *writers, uint64_t ino)
{
	if (proc_holds(writers->opener, ino) != 0) /* "can't be told" counts as holding */
		return true;
	for (unsigned i = 0; i < writers->count; i++) {
		if (may_hold(writers->others[i], ino))
			return true;
	}
	struct search search = {writers->opener, ino};
	return proc_each_since(writers->newest, heir_holds, &search) != 0;
}

bool complete_is_let_go(const struct writers *writers, uint64_t ino)
{
	return writers->opener != 0 && !somebody_holds(writers, ino);
}

enum completion complete_check(const struct writers *writers, pid_t tid, uint64_t ino)
{
	if (tid == 0 || writers->opener == 0)
		return COMPLETE_NO;
	pid_t tgid = tid == writers->opener ? tid : proc_tgid(tid);
	if (tgid == 0)
		return COMPLETE_NO;
	if (proc_killed(tid, NULL))
		return writers->crowded || is_writer(writers, tgid) ? COMPLETE_KILLED : COMPLETE_NO;
	if (tgid != writers->opener || somebody_holds(writers, ino))
		return COMPLETE_NO;
	return COMPLETE_YES;
}
