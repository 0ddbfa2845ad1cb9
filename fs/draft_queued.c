/* SPDX-License-Identifier: MIT */
#include "draft_queued.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>
#include <mqfs/log.h>

#include "draft_send.h"
#include "draft_store.h"
#include "queue.h"

#define LOG_TOPIC "draft"

enum ask { ASK_TAKE_BACK, ASK_FILE, ASK_MOVE, ASK_AGAIN };

struct asking {
	enum ask ask;
	struct fs *fs;
	struct draft *draft; /* a reference */
	struct queue *queue; /* where to, a reference */
	ticket_t ticket;
	pid_t tid;
	int priority;
	mqfs_name_t name;
};

/* A rename replaces an ordinary file. (locked) */
static void make_room(const struct asking *asking)
{
	struct draft *other = draft_find(asking->queue, asking->priority, asking->name);
	if (other && other != asking->draft && other->state != DRAFT_SENDING)
		draft_discard(other);
}

/* The file has done it: the draft follows. (locked) */
static void follow_answer(struct asking *asking, int64_t id, const char *name)
{
	struct draft *draft = asking->draft;
	draft_remember_id(draft, id, name);
	switch (asking->ask) {
	case ASK_TAKE_BACK:
		draft_remove(asking->fs, draft, asking->tid);
		break;
	case ASK_FILE:
		make_room(asking);
		draft_become_file(draft, asking->queue, asking->priority, asking->name);
		break;
	case ASK_MOVE:
		draft_queue(draft, asking->queue, asking->priority, name);
		break;
	case ASK_AGAIN:
		break; /* it is QUEUED since it was put back */
	}
	draft->stored_version = draft->version;
	if (asking->ask == ASK_FILE && strcmp(name, asking->name) != 0)
		draft->version++; /* the file it replaces still had the name there */
}

/* What was put back is not in the line there. (locked) */
static void keep_put_back(struct draft *draft, int error)
{
	log_warning("%s/new/%s is not in the outbox: %s", draft->queue->name, draft->name, strerror(error));
	draft_keep(draft, error, "the outbox can't take it");
	draft->stored_version = draft->version; /* the file has it as removed */
}

static void answered(void *arg, int result, int64_t id, const char *name)
{
	struct asking *asking = arg;
	struct fs *fs = asking->fs;
	struct draft *draft = asking->draft;
	fs_lock(fs);
	draft_ref(draft);
	draft_end_request(draft);
	/* A refusal may have come before: what is KEPT by now can be removed and moved as well. */
	bool there = draft->state == DRAFT_QUEUED || draft->state == DRAFT_KEPT;
	if (result == 0 && there) {
		follow_answer(asking, id, name);
	} else if (asking->ask == ASK_AGAIN && there) {
		keep_put_back(draft, -result);
	}
	draft_follow(draft);
	draft_let_go(draft);
	draft_unref(draft);
	queue_unref(asking->queue);
	fs_unlock(fs);
	FAILPOINT(fs_line_answering);
	if (asking->ticket)
		unpark_error(fs, asking->ticket, -result);
	FAILPOINT(fs_line_answered);
	free(asking);
}

static struct asking *asking_new(enum ask ask, struct draft *draft, struct queue *queue, int priority, const char *name)
{
	struct asking *asking = calloc(1, sizeof(*asking));
	if (!asking)
		return NULL;
	*asking = (struct asking){.ask = ask, .fs = queue->fs, .draft = draft, .queue = queue, .priority = priority};
	strcpy(asking->name, name);
	return asking;
}

/* What the entry is to become; strings point into asking and the draft. (locked) */
static struct mqfs_entry wished_entry(const struct asking *asking)
{
	static const enum mqfs_entry_kind kinds[] = {
	    [ASK_TAKE_BACK] = MQFS_ENTRY_KEPT,
	    [ASK_FILE] = MQFS_ENTRY_FILE,
	    [ASK_MOVE] = MQFS_ENTRY_WAITING,
	    [ASK_AGAIN] = MQFS_ENTRY_WAITING,
	};
	struct mqfs_entry entry = draft_entry(asking->draft, kinds[asking->ask]);
	entry.queue = asking->queue->name;
	entry.priority = asking->priority;
	entry.name = asking->name;
	/* For the moments until it is really gone, in which the mount may be killed: see draft_remove. */
	if (asking->ask == ASK_TAKE_BACK) {
		entry.error = ECANCELED;
		entry.reason = "it was being removed";
	}
	return entry;
}

/* 0: asked. (locked) */
static int ask_locked(struct asking *asking)
{
	struct fs *fs = asking->fs;
	struct draft *draft = asking->draft;
	struct mqfs_message *message = NULL;
	if (draft->storing || !fs->outbox)
		return -EBUSY;
	if (draft->state != DRAFT_QUEUED && draft->state != DRAFT_KEPT)
		return -ENOENT;
	if (asking->ask == ASK_MOVE) {
		message = draft_message(draft, asking->queue, asking->priority, asking->name);
		if (!message)
			return -ENOMEM;
	}
	struct mqfs_entry entry = wished_entry(asking);
	FAILPOINT(fs_line_asking);
	draft_begin_request(draft);
	queue_ref(asking->queue);
	mqfs_outbox_change(fs->outbox, &entry, message, mqfs_clock_monotonic_ms() + DRAFT_STORE_MS, answered, asking);
	return 0;
}

static void ask(struct fs *fs, fuse_req_t req, struct asking *asking)
{
	if (!asking) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	ticket_t ticket = asking->ticket =
	    park(fs, req, mqfs_clock_monotonic_ms() + DRAFT_STORE_MS + 1000, INTERRUPT_WHEN_DYING, NULL, NULL);
	fs_lock(fs);
	int result = ask_locked(asking);
	fs_unlock(fs);
	if (result < 0) {
		unpark_error(fs, ticket, -result);
		free(asking);
	}
}

void draft_take_back(struct fs *fs, fuse_req_t req, struct draft *draft, pid_t tid)
{
	fs_lock(fs);
	struct asking *asking = asking_new(ASK_TAKE_BACK, draft, draft->queue, draft->priority, draft->name);
	fs_unlock(fs);
	if (asking)
		asking->tid = tid;
	ask(fs, req, asking);
}

void draft_move_queued(struct fs *fs, fuse_req_t req, struct draft *draft, struct queue *queue, int priority,
                       const char *name)
{
	ask(fs, req, asking_new(name[0] == '.' ? ASK_FILE : ASK_MOVE, draft, queue, priority, name));
}

void draft_line_up_again(struct draft *draft)
{
	struct asking *asking = asking_new(ASK_AGAIN, draft, draft->queue, draft->priority, draft->name);
	draft_line_up(draft, draft->queue);
	int result = asking ? ask_locked(asking) : -ENOMEM;
	if (result < 0) {
		keep_put_back(draft, -result);
		free(asking);
	}
}
