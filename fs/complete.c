/* SPDX-License-Identifier: MIT */
#include "complete.h"

#include <stdbool.h>
#include <stddef.h>

#include "proc.h"

/* How many descendants of the opener are looked at: a shell with more jobs than this leaves it to RELEASE. */
#define DESCENDANTS_MAX 64

struct search {
	uint64_t ino;
	int budget;
};

void writers_note(struct writers *writers, pid_t tid)
{
	if (tid == 0 || tid == writers->opener || writers->count == COMPLETE_WRITERS)
		return;
	for (unsigned i = 0; i < writers->count; i++) {
		if (writers->others[i] == tid)
			return;
	}
	writers->others[writers->count++] = tid;
}

static bool is_writer(const struct writers *writers, pid_t tgid)
{
	if (tgid == writers->opener)
		return true;
	for (unsigned i = 0; i < writers->count; i++) {
		if (writers->others[i] == tgid)
			return true;
	}
	return false;
}

static int child_holds(pid_t child, void *arg)
{
	struct search *search = arg;
	if (--search->budget < 0)
		return 1;
	if (proc_holds(child, search->ino) > 0)
		return 1;
	return proc_children(child, child_holds, search);
}

static bool somebody_holds(const struct writers *writers, uint64_t ino)
{
	if (proc_holds(writers->opener, ino) != 0) /* "can't be told" counts as holding */
		return true;
	for (unsigned i = 0; i < writers->count; i++) {
		if (proc_holds(writers->others[i], ino) > 0)
			return true;
	}
	struct search search = {ino, DESCENDANTS_MAX};
	return proc_children(writers->opener, child_holds, &search) != 0;
}

enum completion complete_check(const struct writers *writers, pid_t tid, uint64_t ino)
{
	if (tid == 0 || writers->opener == 0)
		return COMPLETE_NO;
	pid_t tgid = tid == writers->opener ? tid : proc_tgid(tid);
	if (tgid == 0)
		return COMPLETE_NO;
	if (proc_killed(tid, NULL))
		return is_writer(writers, tgid) || is_writer(writers, tid) ? COMPLETE_KILLED : COMPLETE_NO;
	if (tgid != writers->opener || somebody_holds(writers, ino))
		return COMPLETE_NO;
	return COMPLETE_YES;
}
