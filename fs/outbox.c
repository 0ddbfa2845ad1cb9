/* SPDX-License-Identifier: MIT */
#include "outbox.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utlist.h>

#include <mqfs/log.h>
#include <mqfs/outbox.h>
#include <mqfs/state.h>

#include "draft_file.h"
#include "draft_send.h"
#include "draft_store.h"
#include "queue.h"

#define LOG_TOPIC "outbox"
#define END_SECONDS 10

/* A file of another broker in the state directory, with messages in it that no mount sends. */
struct left_over {
	char *path, *peer;
	int64_t messages;
	struct left_over *next;
};

/* --- drafts as the file has them --- */

/* A reference; NULL: out of memory. No lock. */
static struct queue *queue_of(struct fs *fs, const char *name)
{
	fs_lock(fs);
	struct queue *queue = queue_known(fs, name);
	if (queue)
		queue_ref(queue);
	fs_unlock(fs);
	return queue ? queue : queue_add(fs, name);
}

static int64_t delay_of(const struct mqfs_entry *entry)
{
	if (entry->due_us <= 0)
		return -entry->due_us / 1000;
	int64_t left_ms = (entry->due_us - mqfs_clock_realtime_us()) / 1000;
	return left_ms > 0 ? left_ms : 0;
}

/* It becomes what the entry says. (locked) */
static void adopt(struct draft *draft, struct queue *queue, const struct mqfs_entry *entry)
{
	if (entry->kind == MQFS_ENTRY_WAITING) {
		draft_queue(draft, queue, entry->priority, entry->name);
	} else if (entry->kind == MQFS_ENTRY_FILE) {
		draft_become_file(draft, queue, entry->priority, entry->name);
	} else {
		draft_set_name(draft, queue, -1, entry->name);
		draft_keep(draft, entry->error, entry->reason);
	}
	draft_remember_id(draft, entry->id, entry->name);
	draft->mode = entry->mode & 0777;
	draft->bytes = (size_t)entry->body_bytes;
	draft->modified_us = entry->modified_us;
	draft->delay_ms = delay_of(entry);
	draft->spoiled = entry->spoiled;
	draft->stored_version = draft->version;
	draft->stale = draft->message != NULL;
	draft_let_go(draft);
}

static void add(struct queue *queue, const struct mqfs_entry *entry)
{
	struct draft *draft = draft_new_stored(queue, entry->priority, entry->name, entry->mode);
	if (!draft)
		return; /* out of memory: the file has it */
	adopt(draft, queue, entry);
	draft_unref(draft);
}

/* Has the file what this mount knows already? (locked) */
static bool is_as_known(const struct draft *draft, const struct queue *queue, const struct mqfs_entry *entry)
{
	static const enum mqfs_entry_kind kinds[DRAFT_STATES] = {
	    [DRAFT_QUEUED] = MQFS_ENTRY_WAITING,
	    [DRAFT_KEPT] = MQFS_ENTRY_KEPT,
	    [DRAFT_DOT] = MQFS_ENTRY_FILE,
	    [DRAFT_EMPTY] = MQFS_ENTRY_FILE,
	};
	int priority = entry->kind == MQFS_ENTRY_KEPT ? -1 : entry->priority;
	return kinds[draft->state] == entry->kind && draft->queue == queue && draft->priority == priority &&
	       draft->stored_name && strcmp(draft->stored_name, entry->name) == 0 &&
	       (draft->state == DRAFT_QUEUED ||
	        (draft->modified_us == entry->modified_us && (int64_t)draft->bytes == entry->body_bytes));
}

/* Is it the file's word that counts, and not what this mount is about to write there? (locked) */
static bool may_adopt(const struct draft *draft, const struct mqfs_entry *entry)
{
	switch (draft->state) {
	case DRAFT_QUEUED:
		return !draft->storing || entry->kind == MQFS_ENTRY_KEPT;
	case DRAFT_DOT:
	case DRAFT_EMPTY:
	case DRAFT_KEPT:
		return !draft->storing && draft->handles == 0 && draft->stored_version == draft->version;
	default:
		return false;
	}
}

static void changed(void *arg, const struct mqfs_entry *entry)
{
	struct fs *fs = arg;
	struct queue *queue = queue_of(fs, entry->queue);
	if (!queue)
		return;
	fs_lock(fs);
	struct draft *draft = draft_by_id(fs, entry->id);
	if (!draft)
		add(queue, entry);
	else if (may_adopt(draft, entry) && !is_as_known(draft, queue, entry))
		adopt(draft, queue, entry);
	queue_unref(queue);
	fs_unlock(fs);
}

static void confirmed(struct fs *fs, struct draft *draft)
{
	atomic_fetch_add(&draft->queue->counters.confirmed, 1);
	draft_forget_id(draft);
	draft_become_ghost(fs, draft);
}

/* Another mount has removed it: what this one is writing just now is put there anew. */
static void lost(struct draft *draft)
{
	bool listed = draft->state == DRAFT_QUEUED || draft->state == DRAFT_KEPT || draft->state == DRAFT_DOT ||
	              draft->state == DRAFT_EMPTY;
	draft_forget_id(draft);
	draft->stored_version = 0;
	if (listed && draft->handles == 0)
		draft_discard(draft);
}

static void removed(void *arg, int64_t id, bool sent)
{
	struct fs *fs = arg;
	fs_lock(fs);
	struct draft *draft = draft_by_id(fs, id);
	if (draft) {
		draft_ref(draft);
		if (sent && draft->state == DRAFT_QUEUED)
			confirmed(fs, draft);
		else if (!draft->storing)
			lost(draft);
		draft_unref(draft);
	}
	fs_unlock(fs);
}

static void refused(void *arg, const struct mqfs_entry *entry)
{
	struct fs *fs = arg;
	log_warning("%s/new/%s: the broker refuses a message of the outbox: %s", entry->queue, entry->name,
	            entry->reason ? entry->reason : strerror(entry->error));
	changed(arg, entry);
	struct queue *queue = queue_of(fs, entry->queue);
	if (!queue)
		return;
	if (entry->error == ENOENT) {
		atomic_store(&queue->doubtful, true);
		atomic_fetch_add(&queue->counters.returned, 1);
	} else if (entry->error == ENOSPC) {
		atomic_fetch_add(&queue->counters.nacked, 1);
	}
	fs_lock(fs);
	queue_unref(queue);
	fs_unlock(fs);
}

static const struct mqfs_outbox_watcher watcher = {.changed = changed, .removed = removed, .refused = refused};

/* --- other brokers' --- */

static void add_left_over(void *arg, const char *path, const char *peer, int64_t messages)
{
	struct fs *fs = arg;
	struct left_over *left_over = malloc(sizeof(*left_over));
	if (!left_over)
		return;
	*left_over = (struct left_over){.path = strdup(path), .peer = strdup(peer), .messages = messages};
	if (left_over->path && left_over->peer) {
		LL_APPEND(fs->left_overs, left_over);
		return;
	}
	free(left_over->path);
	free(left_over->peer);
	free(left_over);
}

void outbox_log_left_overs(struct fs *fs)
{
	struct left_over *left_over;
	LL_FOREACH(fs->left_overs, left_over)
	{
		log_warning("%s has %" PRId64 " messages for %s, which this mount does not send", left_over->path,
		            left_over->messages, left_over->peer);
	}
}

void outbox_status(struct fs *fs, FILE *out)
{
	struct mqfs_outbox_depth depth = {0};
	struct left_over *left_over;
	char oldest[MQFS_RFC3339_BYTES];
	if (fs->outbox)
		mqfs_outbox_depth(fs->outbox, NULL, &depth);
	fprintf(out, "outbox %" PRId64 "\noutbox_bytes %" PRId64 "\n", depth.messages, depth.bytes);
	if (depth.oldest_us)
		fprintf(out, "outbox_oldest %s\n", mqfs_clock_rfc3339(depth.oldest_us, oldest));
	if (fs->state)
		fprintf(out, "state %s\n", mqfs_state_path(fs->state));
	LL_FOREACH(fs->left_overs, left_over)
	{
		fprintf(out, "left_over %" PRId64 " %s %s\n", left_over->messages, left_over->peer, left_over->path);
	}
}

/* --- beginning and end --- */

int outbox_start(struct fs *fs, const char *url)
{
	mqfs_state_each_other(fs->state, add_left_over, fs);
	outbox_log_left_overs(fs);
	const struct mqfs_outbox_limits limits = {fs->settings.outbox_max_bytes, fs->settings.publish_timeout_ms};
	struct mqfs_outbox *outbox;
	int result = mqfs_outbox_open(fs->state, fs->backend, &limits, &watcher, fs, &outbox);
	if (result < 0) {
		fprintf(stderr, "mqfs: %s: %s\n", mqfs_state_path(fs->state), strerror(-result));
		return result;
	}
	/* The embedded store is as durable as the outbox: what it can't take now the outbox can't either. */
	fs->outboxing = fs->settings.outbox && strncmp(url, "sqlite:", 7) != 0;
	fs_lock(fs);
	fs->outbox = outbox;
	fs_unlock(fs);
	return 0;
}

/* What it is at the end goes to the disk. Other drafts may go with that. (locked) */
static void end_draft(struct fs *fs, struct draft *draft)
{
	draft->failed_version = 0;
	if (draft->state == DRAFT_WRITING && draft_has_data(draft)) {
		draft->spoiled = true;
		draft_keep(draft, EIO, "the mount ended while it was being written");
		draft_changed(draft);
	} else if (draft->state == DRAFT_SENDING && !draft->queueing) {
		/* Perhaps the broker has it; the message-id tells. */
		if (fs->outboxing)
			draft_enqueue(draft);
		else
			draft_refused(draft, EIO, "the mount ended before it was confirmed");
	} else if (draft->state == DRAFT_REMOVED) {
		draft->until_ms = 0;
	} else {
		draft_follow(draft);
	}
}

static void end_drafts(struct fs *fs)
{
	struct draft *next, *draft = fs->live ? draft_ref(fs->live) : NULL;
	for (; draft; draft = next) {
		next = draft->next_live ? draft_ref(draft->next_live) : NULL;
		end_draft(fs, draft);
		draft_unref(draft);
	}
}

static void wait_for_requests(struct fs *fs)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += END_SECONDS;
	while (fs->requests > 0 && pthread_cond_timedwait(&fs->no_requests, &fs->lock, &until) == 0)
		;
}

/* Takes leave of the file; what it does not have goes with the mount. (locked) */
static void leave(struct fs *fs)
{
	struct draft *draft, *next;
	int64_t gone = 0;
	fs->outbox = NULL;
	DL_FOREACH2(fs->live, draft, next_live)
	{
		bool unfinished = draft->counted && draft->version != draft->stored_version;
		gone += unfinished && (draft_has_data(draft) || draft->named);
	}
	if (gone > 0)
		log_warning("%" PRId64 " drafts could not be kept on the disk, and go with the mount", gone);
	HASH_ITER(by_id, fs->stored, draft, next)
	{
		draft_forget_id(draft);
	}
	while (fs->draft_handles) /* no RELEASE comes any more */
		draft_handle_close(fs->draft_handles);
}

void outbox_end(struct fs *fs)
{
	struct queue *queue, *next;
	fs_lock(fs);
	struct mqfs_outbox *outbox = fs->outbox;
	fs->ending = true;
	end_drafts(fs);
	HASH_ITER(hh, fs->queues, queue, next)
	{
		drafts_tick(fs, queue, mqfs_clock_monotonic_ms());
	}
	wait_for_requests(fs);
	fs_unlock(fs);
	mqfs_outbox_close(outbox);
	fs_lock(fs);
	leave(fs);
	fs_unlock(fs);
}
