/* SPDX-License-Identifier: MIT */
#include "draft_store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/failpoint.h>
#include <mqfs/log.h>

#include "draft_send.h"
#include "notify.h"
#include "queue.h"

#define LOG_TOPIC "draft"
/* Nobody waits for these: a disk may be slow for a while. */
#define BACKGROUND_MS 30000

/* What should become of what the file has. */
enum wish { WISH_NOTHING, WISH_FILE, WISH_KEPT, WISH_WAITING, WISH_GONE };

struct storing {
	struct fs *fs;
	struct draft *draft; /* a reference */
	enum wish wish;
	unsigned version;
};

/* Who waits in fsync(2). */
struct draft_sync {
	ticket_t ticket;
	unsigned version;
	int error;
	struct draft_sync *next;
};

/* --- by id --- */

struct draft *draft_by_id(struct fs *fs, int64_t id)
{
	struct draft *draft;
	HASH_FIND(by_id, fs->stored, &id, sizeof(id), draft);
	return draft;
}

void draft_remember_id(struct draft *draft, int64_t id, const char *name)
{
	char *copy = strdup(name);
	free(draft->stored_name);
	draft->stored_name = copy;
	if (draft->stored_id == id)
		return;
	draft_ref(draft); /* the map's */
	draft_forget_id(draft);
	draft->stored_id = id;
	HASH_ADD(by_id, draft->queue->fs->stored, stored_id, sizeof(id), draft);
}

void draft_forget_id(struct draft *draft)
{
	if (!draft->stored_id)
		return;
	HASH_DELETE(by_id, draft->queue->fs->stored, draft);
	draft->stored_id = 0;
	draft_unref(draft);
}

const char *draft_made_id(struct draft *draft)
{
	return draft->made_id[0] ? draft->made_id : mqfs_uuid(draft->made_id);
}

/* --- what the file should have --- */

static bool is_dirty(const struct draft *draft)
{
	return draft->version != draft->stored_version && draft->version != draft->failed_version;
}

/* An ordinary file is kept as it is when its last writer has closed it. */
static bool is_being_written(const struct draft *draft)
{
	bool wanted = draft->wanted_version && draft->stored_version < draft->wanted_version;
	return draft->handles > 0 && !wanted && !draft->queue->fs->ending;
}

static enum wish wish_of(const struct draft *draft)
{
	switch (draft->state) {
	case DRAFT_DOT:
	case DRAFT_EMPTY:
		return is_dirty(draft) && !is_being_written(draft) ? WISH_FILE : WISH_NOTHING;
	case DRAFT_KEPT:
		return is_dirty(draft) ? WISH_KEPT : WISH_NOTHING;
	case DRAFT_SENDING:
		return draft->queueing ? WISH_WAITING : WISH_NOTHING;
	case DRAFT_GHOST:
	case DRAFT_GONE:
		return draft->stored_id ? WISH_GONE : WISH_NOTHING;
	default:
		return WISH_NOTHING;
	}
}

/* A delay begins when the message is accepted: with what waits, that is now. */
static int64_t due_of(const struct draft *draft, enum mqfs_entry_kind kind)
{
	if (draft->delay_ms == 0)
		return 0;
	return kind == MQFS_ENTRY_WAITING ? mqfs_clock_realtime_us() + draft->delay_ms * 1000 : -draft->delay_ms * 1000;
}

struct mqfs_entry draft_entry(const struct draft *draft, enum mqfs_entry_kind kind)
{
	struct destination to = draft_destination(draft);
	return (struct mqfs_entry){
	    .id = draft->stored_id,
	    .kind = kind,
	    .queue = to.queue->name,
	    .priority = to.priority,
	    .name = to.name,
	    .mode = draft->mode,
	    .body_bytes = (int64_t)draft->bytes,
	    .modified_us = draft->modified_us,
	    .due_us = due_of(draft, kind),
	    .spoiled = draft->spoiled || draft->killed,
	    .error = draft->error,
	    .reason = draft->reason,
	};
}

/* The content for the file: NULL with 0 when it has that already. */
static int content_of(struct draft *draft, enum wish wish, const struct mqfs_entry *entry,
                      struct mqfs_message **ret_message)
{
	*ret_message = NULL;
	if (!draft->message || draft->stale)
		return 0;
	if (wish == WISH_WAITING) {
		*ret_message = draft_message(draft, draft_destination(draft).queue, entry->priority, entry->name);
		return *ret_message ? 0 : -ENOMEM;
	}
	struct mqfs_message *copy = mqfs_message_copy(draft->message);
	if (copy && !copy->message_id && mqfs_message_set_string(&copy->message_id, draft_made_id(draft)) < 0)
		copy = mqfs_message_free(copy);
	*ret_message = copy;
	return copy ? 0 : -ENOMEM;
}

void draft_begin_request(struct draft *draft)
{
	assert(!draft->storing);
	draft_ref(draft);
	draft->storing = true;
	draft->queue->fs->requests++;
}

void draft_end_request(struct draft *draft)
{
	struct fs *fs = draft->queue->fs;
	draft->storing = false;
	if (--fs->requests == 0)
		pthread_cond_broadcast(&fs->no_requests);
	draft_unref(draft);
}

/* --- the request --- */

static void put_done(void *arg, int result, int64_t id, const char *name);
static void removed(void *arg, int result, const char *reason);

static void failed(struct draft *draft, enum wish wish, int error)
{
	log_warning("%s/new/%s is not kept on the disk: %s", draft->queue->name, draft->name, strerror(error));
	draft->store_error = error;
	draft->failed_version = draft->version;
	if (wish == WISH_WAITING && draft->state == DRAFT_SENDING)
		draft_refused(draft, error, "the outbox can't take it");
}

static void request(struct fs *fs, struct draft *draft, struct storing *storing)
{
	static const enum mqfs_entry_kind kinds[] = {
	    [WISH_FILE] = MQFS_ENTRY_FILE, [WISH_KEPT] = MQFS_ENTRY_KEPT, [WISH_WAITING] = MQFS_ENTRY_WAITING};
	bool awaited = draft->ticket || draft->syncs;
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + (awaited ? DRAFT_STORE_MS : BACKGROUND_MS);
	if (storing->wish == WISH_GONE) {
		mqfs_outbox_remove(fs->outbox, draft->stored_id, deadline_ms, removed, storing);
		return;
	}
	struct mqfs_message *message;
	struct mqfs_entry entry = draft_entry(draft, kinds[storing->wish]);
	if (content_of(draft, storing->wish, &entry, &message) < 0) {
		draft_end_request(draft);
		free(storing);
		failed(draft, wish_of(draft), ENOMEM);
	} else if (draft->stored_id) {
		mqfs_outbox_change(fs->outbox, &entry, message, deadline_ms, put_done, storing);
	} else {
		mqfs_outbox_put(fs->outbox, &entry, message, deadline_ms, put_done, storing);
	}
}

void draft_follow(struct draft *draft)
{
	struct fs *fs = draft->queue->fs;
	enum wish wish = wish_of(draft);
	if (draft->storing || wish == WISH_NOTHING || !fs->outbox)
		return;
	struct storing *storing = malloc(sizeof(*storing));
	if (!storing) {
		failed(draft, wish, ENOMEM);
		return;
	}
	*storing = (struct storing){fs, draft, wish, draft->version};
	FAILPOINT(fs_store_asking);
	draft_begin_request(draft);
	request(fs, draft, storing);
}

/* --- its end --- */

static bool is_at_rest(const struct draft *draft)
{
	if (draft->state == DRAFT_SENDING)
		return false;
	return draft->state != DRAFT_KEPT || !draft->queue->fs->outbox || !is_dirty(draft);
}

ticket_t draft_take_ticket(struct draft *draft)
{
	ticket_t ticket = is_at_rest(draft) ? draft->ticket : 0;
	if (ticket)
		draft->ticket = 0;
	return ticket;
}

/* Those of the syncs that have come to their end. */
static struct draft_sync *take_syncs(struct draft *draft)
{
	struct draft_sync *sync, *next, *done = NULL;
	LL_FOREACH_SAFE(draft->syncs, sync, next)
	{
		bool stored = draft->stored_version >= sync->version;
		if (!stored && !draft->storing && wish_of(draft) == WISH_NOTHING)
			sync->error = draft->failed_version == draft->version ? draft->store_error : 0;
		else if (!stored)
			continue;
		LL_DELETE(draft->syncs, sync);
		LL_PREPEND(done, sync);
	}
	return done;
}

static void answer_syncs(struct fs *fs, struct draft_sync *syncs)
{
	struct draft_sync *sync, *next;
	LL_FOREACH_SAFE(syncs, sync, next)
	{
		unpark_error(fs, sync->ticket, sync->error);
		free(sync);
	}
}

/* It is durable: a message of the outbox, where it was sent to. */
static void enter_line(struct draft *draft, const char *name)
{
	struct destination to = draft_destination(draft);
	draft->queueing = false;
	queue_ref(to.queue);
	draft_queue(draft, to.queue, to.priority, name);
	queue_unref(to.queue);
}

/* A draft that had the name may have left it here, and not yet there. Then it is asked for once more; if it is another
 * mount's, the two have different names for it. */
static void insist(struct draft *draft, const char *name)
{
	bool other = strcmp(name, draft->name) != 0;
	if (other && !draft->insisted && draft->version == draft->stored_version)
		draft->version++;
	draft->insisted = other;
}

static void take_result(struct draft *draft, const struct storing *storing, int result, int64_t id, const char *name)
{
	if (!draft->queue->fs->outbox)
		return; /* the mount has taken leave of the file */
	if (storing->wish == WISH_GONE) {
		if (result < 0 && result != -ENOENT)
			log_warning("%s/new/%s stays on the disk: %s", draft->queue->name, draft->name,
			            strerror(-result));
		draft_forget_id(draft);
	} else if (result == -ENOENT && draft->stored_id) {
		/* Another mount has removed it; ours is newer, and is put anew if we have its content. */
		draft_forget_id(draft);
		if (!draft->message || draft->stale)
			draft_discard(draft);
	} else if (result < 0) {
		if (storing->version == draft->version)
			failed(draft, storing->wish, -result);
	} else {
		draft_remember_id(draft, id, name);
		draft->stored_version = storing->version;
		if (storing->wish != WISH_WAITING)
			insist(draft, name);
		else if (draft->state == DRAFT_SENDING)
			enter_line(draft, name);
	}
}

static void finish(struct storing *storing, int result, int64_t id, const char *name)
{
	struct fs *fs = storing->fs;
	struct draft *draft = storing->draft;
	fs_lock(fs);
	draft_ref(draft);
	draft_end_request(draft);
	take_result(draft, storing, result, id, name);
	draft_follow(draft);
	draft_let_go(draft);
	ticket_t ticket = draft_take_ticket(draft);
	int error = draft->answer;
	struct draft_sync *syncs = take_syncs(draft);
	draft_unref(draft);
	fs_unlock(fs);
	FAILPOINT(fs_store_answering);
	if (ticket)
		unpark_error(fs, ticket, error);
	answer_syncs(fs, syncs);
	FAILPOINT(fs_store_answered);
	free(storing);
}

static void put_done(void *arg, int result, int64_t id, const char *name)
{
	finish(arg, result, id, name);
}

static void removed(void *arg, int result, const char *reason)
{
	(void)reason;
	finish(arg, result, 0, NULL);
}

/* --- fsync(2) --- */

void draft_sync(struct fs *fs, fuse_req_t req, struct draft *draft)
{
	struct draft_sync *sync = calloc(1, sizeof(*sync));
	if (!sync) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	sync->ticket = park(fs, req, mqfs_clock_monotonic_ms() + 2 * DRAFT_STORE_MS, INTERRUPT_WHEN_DYING, NULL, NULL);
	fs_lock(fs);
	sync->version = draft->wanted_version = draft->version;
	if (draft->failed_version == draft->version)
		draft->failed_version = 0; /* once more */
	LL_PREPEND(draft->syncs, sync);
	draft_follow(draft);
	struct draft_sync *syncs = take_syncs(draft);
	fs_unlock(fs);
	answer_syncs(fs, syncs);
}

/* --- bringing the content back --- */

bool draft_is_away(const struct draft *draft)
{
	return (!draft->message || draft->stale) && draft->stored_id && draft->state != DRAFT_GHOST &&
	       draft->state != DRAFT_GONE;
}

/* It may be parked again, and the directory that it holds is held without a gap. */
static void go_on(struct fs *fs, struct fetch *fetch, int result)
{
	if (fetch->holding)
		notify_hold(fs);
	fuse_req_t req = unpark(fs, fetch->ticket);
	park_holding(fetch->holding);
	if (req)
		fetch->run(fs, req, fetch, result);
	park_holding(false);
	if (fetch->holding)
		notify_release(fs);
}

static void loaded(void *arg, int result, struct mqfs_message *message)
{
	struct fetch *fetch = arg;
	struct fs *fs = fetch->fs;
	struct draft *draft = fetch->object;
	fs_lock(fs);
	if (result == 0 && (!draft->message || draft->stale)) {
		mqfs_message_free(draft->message);
		draft->message = message;
		draft->stale = false;
		message = NULL;
	}
	if (draft->message && !draft->stale)
		result = 0; /* somebody else's fetch was quicker than a removal */
	fs_unlock(fs);
	mqfs_message_free(message);

	go_on(fs, fetch, result);
	fs_lock(fs);
	draft_unpin(draft);
	draft_unref(draft);
	fs_unlock(fs);
	free(fetch);
}

void draft_fetch(struct fs *fs, fuse_req_t req, struct draft *draft, struct fetch *fetch)
{
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + DRAFT_STORE_MS;
	fetch->fs = fs;
	fetch->object = draft;
	fetch->holding = park_is_holding();
	fs_lock(fs);
	draft_ref(draft);
	draft_pin(draft);
	int64_t id = draft->stored_id;
	fs_unlock(fs);
	fetch->ticket = park(fs, req, deadline_ms + 1000, INTERRUPT_WHEN_DYING, NULL, NULL);
	mqfs_outbox_load(fs->outbox, id, deadline_ms, loaded, fetch);
}
