/* SPDX-License-Identifier: MIT */
#include "draft_close.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "draft.h"
#include "draft_file.h"
#include "draft_send.h"
#include "draft_store.h"
#include "queue.h"

/* What the completing close() has to do yet. */
enum completing { DONE, SEND, KEEP };

/* What is to be done yet. (locked) */
static enum completing complete_locked(struct draft *draft)
{
	if (draft->spoiled || draft->killed)
		return KEEP;
	if (!draft_has_data(draft)) {
		mqfs_name_t name;
		strcpy(name, draft->name);
		draft_move(draft, DRAFT_EMPTY);
		draft_set_name(draft, draft->queue, draft->priority, name);
		draft_changed(draft);
		return DONE;
	}
	return draft_prepare(draft, draft->queue, draft->priority, draft->name) < 0 ? KEEP : SEND;
}

static void keep_locked(struct draft *draft)
{
	int error = draft->spoiled && draft->error ? draft->error : EIO;
	if (draft->spoiled)
		draft_keep(draft, error, "a write failed");
	else if (draft->killed)
		draft_keep(draft, error, "a writer was killed by a signal");
	else /* nothing else keeps draft_prepare from it */
		draft_keep(draft, error = ENOMEM, NULL);
	draft->answer = error;
	draft_changed(draft);
}

/* Keeps what can't be published, and answers its close() when that is on the disk. No lock. */
static void keep(struct fs *fs, struct draft *draft, ticket_t ticket)
{
	fs_lock(fs);
	if (draft->state == DRAFT_WRITING) { /* else another close() was quicker, and its ticket may wait there */
		draft->ticket = ticket;
		keep_locked(draft);
		ticket = draft_take_ticket(draft);
	}
	int error = draft->answer;
	fs_unlock(fs);
	if (ticket)
		unpark_error(fs, ticket, error);
}

/* The next open takes the empty draft over, and need not wait for this one's RELEASE. (locked) */
static void let_go(struct draft_handle *handle)
{
	handle->let_go = true;
	handle->draft->handles--;
	draft_follow(handle->draft);
}

/* The backend keeps its deadline; a parked request's is later, for the local disk, and a backend that can't. */
static ticket_t park_close(struct fs *fs, fuse_req_t req, int64_t deadline_ms)
{
	return park(fs, req, deadline_ms + 1000 + DRAFT_STORE_MS, INTERRUPT_WHEN_DYING, NULL, NULL);
}

void draft_flush(struct fs *fs, fuse_req_t req, struct node *node, struct fuse_file_info *fi)
{
	struct draft_handle *handle = (struct draft_handle *)(uintptr_t)fi->fh;
	struct draft *draft = handle->draft;
	pid_t tid = fuse_req_ctx(req)->pid;

	fs_lock(fs);
	bool open = handle->writable && draft->state == DRAFT_WRITING;
	struct writers writers = draft->writers;
	fs_unlock(fs);
	enum completion completion = open ? complete_check(&writers, tid, node->key) : COMPLETE_NO;

	enum completing next = DONE;
	fs_lock(fs);
	if (draft->state == DRAFT_WRITING && completion == COMPLETE_KILLED)
		draft->killed = true;
	if (draft->state == DRAFT_WRITING && completion == COMPLETE_YES && draft->handles == 1) {
		next = complete_locked(draft);
		if (draft->state == DRAFT_EMPTY)
			let_go(handle);
	}
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + draft->queue->settings.publish_timeout_ms;
	fs_unlock(fs);

	if (next == SEND)
		draft_send(fs, draft, park_close(fs, req, deadline_ms), deadline_ms);
	else if (next == KEEP)
		keep(fs, draft, park_close(fs, req, deadline_ms));
	else
		fuse_reply_err(req, 0);
}

void draft_release(struct fs *fs, struct node *node, struct fuse_file_info *fi)
{
	(void)node;
	struct draft_handle *handle = (struct draft_handle *)(uintptr_t)fi->fh;
	struct draft *draft = handle->draft;
	enum completing next = DONE;

	fs_lock(fs);
	bool last = handle->writable && !handle->let_go && --draft->handles == 0;
	if (last && draft->state == DRAFT_WRITING)
		next = complete_locked(draft);
	else if (last)
		draft_follow(draft);
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + draft->queue->settings.publish_timeout_ms;
	fs_unlock(fs);
	if (next == SEND)
		draft_send(fs, draft, 0, deadline_ms);
	else if (next == KEEP)
		keep(fs, draft, 0);

	fs_lock(fs);
	draft_handle_close(handle);
	fs_unlock(fs);
}
