/* SPDX-License-Identifier: MIT */
#include "draft_send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/failpoint.h>
#include <mqfs/failure.h>

#include "draft_store.h"
#include "queue.h"

struct sending {
	struct fs *fs;
	struct draft *draft;
	struct queue *queue; /* where to; a reference */
};

static void count_outcome(struct queue *queue, int result)
{
	if (result == 0)
		atomic_fetch_add(&queue->counters.confirmed, 1);
	else if (result == -ENOENT)
		atomic_fetch_add(&queue->counters.returned, 1);
	else if (result == -ENOSPC)
		atomic_fetch_add(&queue->counters.nacked, 1);
}

/* A refused rename leaves the files as they were; a refused close() leaves a draft to see. */
void draft_refused(struct draft *draft, int error, const char *reason)
{
	draft->answer = error;
	draft->queueing = false;
	draft_line_up(draft, NULL);
	draft_forget_target(draft);
	if (draft->before == DRAFT_DOT || draft->before == DRAFT_EMPTY) {
		draft_move(draft, draft->before);
		draft_follow(draft);
	} else {
		draft_keep(draft, error, reason);
		draft_changed(draft);
	}
}

void draft_enqueue(struct draft *draft)
{
	draft->queueing = true;
	draft_line_up(draft, draft_destination(draft).queue);
	draft_changed(draft);
}

/* Is it the broker's state that was in the way, and not the message? An unknown outcome is tried again as well: the
 * message-id stays, so that a consumer can tell (tenet 1). */
static bool may_come_later(const struct fs *fs, int result)
{
	return fs->outboxing && (result == -EHOSTDOWN || result == -ETIMEDOUT || result == -ESHUTDOWN);
}

static void sent(void *arg, int result, const char *reason)
{
	struct sending *sending = arg;
	struct fs *fs = sending->fs;
	struct draft *draft = sending->draft;
	struct queue *queue = sending->queue;

	count_outcome(queue, result);
	FAILPOINT(fs_publish_confirmed);
	if (result == -ENOENT)
		atomic_store(&queue->doubtful, true);

	fs_lock(fs);
	bool ours = draft->state == DRAFT_SENDING && !draft->queueing; /* or it was removed, or the mount ends */
	if (ours && result == 0)
		draft_become_ghost(fs, draft);
	else if (ours && may_come_later(fs, result))
		draft_enqueue(draft);
	else if (ours)
		draft_refused(draft, -result, reason);
	ticket_t ticket = draft_take_ticket(draft);
	int error = draft->answer;
	fs_unlock(fs);

	FAILPOINT(fs_publish_answering);
	if (ticket)
		unpark_error(fs, ticket, error);
	FAILPOINT(fs_publish_answered);
	fs_lock(fs);
	draft_unref(draft);
	queue_unref(queue);
	fs_unlock(fs);
	free(sending);
}

int draft_prepare(struct draft *draft, struct queue *queue, int priority, const char *name)
{
	if (draft->state == DRAFT_SENDING || draft->ticket) /* a close() that waits for the disk is not answered yet */
		return -EBUSY;
	if (draft->spoiled || draft->killed)
		return -EIO;
	/* An unknown outcome may be tried again: the same message-id lets consumers tell (tenet 1). */
	if (!draft->message->message_id &&
	    mqfs_message_set_string(&draft->message->message_id, draft_made_id(draft)) < 0)
		return -ENOMEM;
	if (queue != draft->queue || priority != draft->priority || strcmp(name, draft->name) != 0) {
		draft->target_name = strdup(name);
		if (!draft->target_name)
			return -ENOMEM;
		draft->target_queue = queue_ref(queue);
		draft->target_priority = priority;
	}
	draft->before = draft->state;
	draft->attempted = true;
	draft_move(draft, DRAFT_SENDING);
	return 0;
}

/* A copy, since a refused draft keeps its own. */
struct mqfs_message *draft_message(struct draft *draft, const struct queue *queue, int priority, const char *name)
{
	struct mqfs_message *message = mqfs_message_copy(draft->message);
	if (!message)
		return NULL;
	if (priority >= 0)
		message->priority = priority;
	else if (message->priority < 0)
		message->priority = (int)queue->settings.priority;
	if (mqfs_message_stamp(message, name, mqfs_clock_realtime_us()) < 0)
		return mqfs_message_free(message);
	return message;
}

/* What is to be published now; NULL: it was refused, or has to line up behind others. (locked) */
static struct mqfs_message *begin(struct fs *fs, struct draft *draft, struct queue *queue, struct sending *sending)
{
	if (draft->state != DRAFT_SENDING) { /* since draft_prepare: it has no content any more */
		draft->answer = ENOENT;
		return NULL;
	}
	if (fs->outboxing && queue->in_line > 0) {
		draft_enqueue(draft);
		return NULL;
	}
	struct destination to = draft_destination(draft);
	struct mqfs_message *message = sending ? draft_message(draft, to.queue, to.priority, to.name) : NULL;
	if (message)
		*sending = (struct sending){fs, draft_ref(draft), queue_ref(queue)};
	else
		draft_refused(draft, ENOMEM, NULL);
	return message;
}

void draft_send(struct fs *fs, struct draft *draft, ticket_t ticket, int64_t deadline_ms)
{
	struct sending *sending = malloc(sizeof(*sending));
	fs_lock(fs);
	struct queue *queue = draft_destination(draft).queue;
	draft->ticket = ticket;
	draft->answer = 0;
	struct mqfs_message *message = begin(fs, draft, queue, sending);
	int64_t delay_ms = draft->delay_ms;
	ticket = message ? 0 : draft_take_ticket(draft);
	int error = draft->answer;
	fs_unlock(fs);

	if (!message) {
		free(sending);
		if (ticket)
			unpark_error(fs, ticket, error);
		return;
	}
	atomic_fetch_add(&queue->counters.published, 1);
	FAILPOINT(fs_publish_submitting);
	mqfs_publish(fs->backend, queue->name, delay_ms > 0 ? MQFS_PLACE_RETRY : MQFS_PLACE_READY, delay_ms, message,
	             deadline_ms, sent, sending);
}
