/* SPDX-License-Identifier: MIT */
#include "proc_kept.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mqfs/clock.h>

#include "proc.h"

#define SLOTS 64     /* a descriptor each: well below the usual limit of 1024 */
#define ASKS 4       /* a process that lives for one rm asks less often */
#define KEPT_MS 1000 /* then it is looked at afresh: it may run another program by now */

struct entry {
	struct proc_kept kept;
	atomic_uint references;
	pthread_mutex_t reading; /* the directory's file position is shared */
	int64_t since_ms;
};

static struct {
	pthread_mutex_t lock; /* a leaf */
	struct {
		struct entry *entry; /* a reference */
		pid_t asking;
		unsigned asks;
	} slots[SLOTS];
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct entry *entry_of(const struct proc_kept *kept)
{
	return (struct entry *)kept; /* its first member */
}

void proc_kept_put(struct proc_kept *kept)
{
	if (!kept || atomic_fetch_sub(&entry_of(kept)->references, 1) != 1)
		return;
	if (kept->fds >= 0)
		close(kept->fds);
	pthread_mutex_destroy(&entry_of(kept)->reading);
	free(entry_of(kept));
}

/* The thread waits for our answer, so its numbers are its own meanwhile; if it was killed, the next ask tells. */
static struct entry *entry_new(pid_t tid)
{
	struct proc_stat leader;
	char path[32];
	pid_t tgid = proc_ask_tgid(tid);
	if (tgid == 0 || proc_stat(tgid, &leader) < 0)
		return NULL;
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return NULL;
	atomic_init(&entry->references, 1);
	pthread_mutex_init(&entry->reading, NULL);
	entry->since_ms = mqfs_clock_monotonic_ms();
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)tid);
	entry->kept = (struct proc_kept){
	    .tid = tid,
	    .tgid = tgid,
	    .start = leader.start,
	    .fds = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
	};
	memcpy(entry->kept.name, leader.name, sizeof(entry->kept.name));
	if (entry->kept.fds < 0) {
		proc_kept_put(&entry->kept);
		return NULL;
	}
	return entry;
}

static bool is_alive(const struct entry *entry, bool *ret_has_files)
{
	struct stat st;
	if (fstat(entry->kept.fds, &st) < 0 || mqfs_clock_monotonic_ms() - entry->since_ms > KEPT_MS)
		return false;
	if (ret_has_files)
		*ret_has_files = st.st_size > 0;
	return true;
}

/* What the table has, or whether it is time to make it. */
static struct entry *look_up(pid_t tid, bool *ret_due)
{
	struct entry *entry = NULL;
	pthread_mutex_lock(&table.lock);
	if (table.slots[tid % SLOTS].entry && table.slots[tid % SLOTS].entry->kept.tid == tid) {
		entry = table.slots[tid % SLOTS].entry;
		atomic_fetch_add(&entry->references, 1);
	}
	if (table.slots[tid % SLOTS].asking != tid) {
		table.slots[tid % SLOTS].asking = tid;
		table.slots[tid % SLOTS].asks = 0;
	}
	*ret_due = ++table.slots[tid % SLOTS].asks >= ASKS;
	pthread_mutex_unlock(&table.lock);
	return entry;
}

static void replace(pid_t tid, struct entry *entry)
{
	if (entry)
		atomic_fetch_add(&entry->references, 1);
	pthread_mutex_lock(&table.lock);
	struct entry *old = table.slots[tid % SLOTS].entry;
	table.slots[tid % SLOTS].entry = entry;
	pthread_mutex_unlock(&table.lock);
	if (old)
		proc_kept_put(&old->kept);
}

struct proc_kept *proc_kept_get(pid_t tid, bool *ret_has_files)
{
	bool due;
	if (tid <= 0)
		return NULL;
	struct entry *entry = look_up(tid, &due);
	if (entry && is_alive(entry, ret_has_files))
		return &entry->kept;
	if (entry)
		proc_kept_put(&entry->kept);
	else if (!due)
		return NULL;
	entry = entry_new(tid);
	replace(tid, entry);
	if (entry && is_alive(entry, ret_has_files))
		return &entry->kept;
	if (entry)
		proc_kept_put(&entry->kept);
	return NULL;
}

int proc_kept_rewind_fds(struct proc_kept *kept)
{
	pthread_mutex_lock(&entry_of(kept)->reading);
	lseek(kept->fds, 0, SEEK_SET);
	return kept->fds;
}

void proc_kept_end_fds(struct proc_kept *kept)
{
	pthread_mutex_unlock(&entry_of(kept)->reading);
}
