/* SPDX-License-Identifier: MIT */
#include "messages.h"

#include <errno.h>
#include <stdlib.h>

#include <mqfs/clock.h>
#include <mqfs/failure.h>
#define LOG_TOPIC "sqlite"
#include <mqfs/log.h>

#include "ledger.h"

static enum message_state state_of(enum mqfs_place place)
{
	switch (place) {
	case MQFS_PLACE_RETRY:
		return STATE_RETRY;
	case MQFS_PLACE_DEAD:
		return STATE_DEAD;
	default:
		return STATE_READY;
	}
}

/* Sums of times that users choose can't pass the end. */
static int64_t later(int64_t time_us, int64_t delay_ms)
{
	int64_t sum;

	if (delay_ms < 0)
		return time_us;
	if (__builtin_mul_overflow(delay_ms, 1000, &sum) || __builtin_add_overflow(sum, time_us, &sum))
		return INT64_MAX;
	return sum;
}

/* Milliseconds; -1: it never expires. */
static int64_t time_to_live(const struct queue *queue, const struct mqfs_message *message)
{
	int64_t ttl = queue->message_ttl_ms > 0 ? queue->message_ttl_ms : -1;

	if (message->expiration) {
		char *end;
		long long own = strtoll(message->expiration, &end, 10);

		if (end != message->expiration && *end == '\0' && own >= 0 && (ttl < 0 || own < ttl))
			ttl = own;
	}
	return ttl;
}

struct placing {
	enum message_state state;
	int64_t priority;
	int64_t next_at_us;    /* RETRY; else 0 */
	int64_t expires_at_us; /* 0: never */
};

static struct placing placing_of(const struct queue *queue, const struct mqfs_message *message, enum mqfs_place place,
                                 int64_t delay_ms)
{
	struct placing placing = {.state = state_of(place), .priority = message->priority};
	int64_t now_us = mqfs_clock_realtime_us();
	int64_t ttl_ms = time_to_live(queue, message);

	if (placing.priority < 0)
		placing.priority = 0;
	if (placing.priority > queue->max_priority)
		placing.priority = queue->max_priority;
	if (place == MQFS_PLACE_RETRY)
		placing.next_at_us = now_us = later(now_us, delay_ms);
	if (place != MQFS_PLACE_DEAD && ttl_ms >= 0)
		placing.expires_at_us = later(now_us, ttl_ms);
	return placing;
}

static void bind_time(sqlite3_stmt *statement, int index, int64_t time_us)
{
	if (time_us == 0)
		sqlite3_bind_null(statement, index);
	else
		sqlite3_bind_int64(statement, index, time_us);
}

static void bind_fence(sqlite3_stmt *statement, const struct message_fence *fence)
{
	sqlite3_bind_int64(statement, 1, fence->id);
	sqlite3_bind_int64(statement, 2, fence->generation);
	sqlite3_bind_int(statement, 3, fence->state);
	if (fence->state == STATE_LEASED)
		sqlite3_bind_int64(statement, 4, fence->mount);
	else
		sqlite3_bind_null(statement, 4);
}

static void due_by(struct store *store, const struct placing *placing)
{
	int64_t at_us = placing->state == STATE_RETRY ? placing->next_at_us : placing->expires_at_us;

	if (at_us != 0 && store->due_us >= 0 && at_us < store->due_us)
		store->due_us = at_us;
}

static bool drops_head(const struct queue *queue)
{
	return queue->max_length > 0 && queue->overflow == MQFS_OVERFLOW_DROP_HEAD;
}

int message_admit(const struct queue *queue)
{
	if (queue->max_length <= 0 || drops_head(queue))
		return 0;
	return queue->counts[STATE_READY] < queue->max_length ? 0 : -ENOSPC;
}

/* drop-head: the oldest of the lowest priority goes, before the new one comes. */
static int make_room(struct store *store, struct queue *queue)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_OLDEST];
	struct message_fence fence = {.state = STATE_READY};
	int r = 0;

	while (r >= 0 && queue->counts[STATE_READY] >= queue->max_length) {
		sqlite3_bind_int64(statement, 1, queue->id);
		r = statement_step(statement);
		if (r <= 0)
			return r;
		fence.id = sqlite3_column_int64(statement, 0);
		fence.generation = sqlite3_column_int64(statement, 1);
		sqlite3_reset(statement);
		r = message_end(store, queue, &fence, "maxlen");
		if (r == 0)
			return -EIO; /* READY, and somebody's: it would be the oldest again */
	}
	return r < 0 ? r : 0;
}

int message_insert(struct store *store, struct queue *queue, const struct mqfs_message *message, enum mqfs_place place,
                   int64_t delay_ms)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_INSERT];
	sqlite3_stmt *content = store->statements[STATEMENT_CONTENT_INSERT];
	struct placing placing = placing_of(queue, message, place, delay_ms);
	int64_t id = ledger_next(store);
	int r;

	sqlite3_bind_int64(content, 1, id);
	statement_bind_bytes(content, 2, store->head.data, store->head.bytes);
	statement_bind_bytes(content, 3, message->body->data, message->body->bytes);
	r = statement_run(content);
	/* After the head was used: what is dropped to the dead needs the buffer. */
	if (r == 0 && placing.state == STATE_READY && drops_head(queue))
		r = make_room(store, queue);
	if (r < 0)
		return r;
	sqlite3_bind_int64(statement, 1, id);
	sqlite3_bind_int64(statement, 2, queue->id);
	sqlite3_bind_int(statement, 3, placing.state);
	sqlite3_bind_int64(statement, 4, placing.priority);
	bind_time(statement, 5, placing.next_at_us);
	bind_time(statement, 6, placing.expires_at_us);
	r = statement_run(statement);
	if (r < 0)
		return r;
	ledger_count(queue, placing.state, 1);
	due_by(store, &placing);
	return 0;
}

int message_delete(struct store *store, struct queue *queue, const struct message_fence *fence)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_DELETE];
	sqlite3_stmt *content = store->statements[STATEMENT_CONTENT_DELETE];
	int r;

	bind_fence(statement, fence);
	r = statement_run(statement);
	if (r < 0 || sqlite3_changes(store->db) == 0)
		return r;
	sqlite3_bind_int64(content, 1, fence->id);
	r = statement_run(content);
	if (r < 0)
		return r;
	ledger_count(queue, fence->state, -1);
	return 1;
}

static int back_to_ready(struct store *store, struct queue *queue, const struct message_fence *fence,
                         enum statement_id id)
{
	sqlite3_stmt *statement = store->statements[id];
	int r;

	bind_fence(statement, fence);
	r = statement_run(statement);
	if (r < 0 || sqlite3_changes(store->db) == 0)
		return r;
	ledger_count(queue, fence->state, -1);
	ledger_count(queue, STATE_READY, 1);
	store->due_us = -1; /* it may have expired long ago */
	return 1;
}

int message_release(struct store *store, struct queue *queue, const struct message_fence *fence)
{
	return back_to_ready(store, queue, fence, STATEMENT_MESSAGE_RELEASE);
}

int message_wake(struct store *store, struct queue *queue, const struct message_fence *fence)
{
	return back_to_ready(store, queue, fence, STATEMENT_MESSAGE_WAKE);
}

static int rewrite_content(struct store *store, int64_t id, const struct mqfs_message *message, bool body)
{
	sqlite3_stmt *statement = store->statements[body ? STATEMENT_CONTENT_WHOLE : STATEMENT_CONTENT_HEAD];

	sqlite3_bind_int64(statement, 1, id);
	statement_bind_bytes(statement, 2, store->head.data, store->head.bytes);
	if (body)
		statement_bind_bytes(statement, 3, message->body->data, message->body->bytes);
	return statement_run(statement);
}

int message_move(struct store *store, struct queue *queue, const struct message_fence *fence,
                 const struct mqfs_message *copy, bool body, enum mqfs_place place, int64_t delay_ms)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_MOVE];
	struct placing placing = placing_of(queue, copy, place, delay_ms);
	int r;

	bind_fence(statement, fence);
	sqlite3_bind_int64(statement, 5, ledger_next(store));
	sqlite3_bind_int(statement, 6, placing.state);
	sqlite3_bind_int64(statement, 7, placing.priority);
	bind_time(statement, 8, placing.next_at_us);
	bind_time(statement, 9, placing.expires_at_us);
	r = statement_run(statement);
	if (r < 0 || sqlite3_changes(store->db) == 0)
		return r;
	r = rewrite_content(store, fence->id, copy, body);
	if (r < 0)
		return r;
	ledger_count(queue, fence->state, -1);
	ledger_count(queue, placing.state, 1);
	due_by(store, &placing);
	return 1;
}

/* All that can be kept of a message whose head is damaged: its body, and a word about it. */
static int salvage(const void *body, size_t bytes, struct mqfs_message **ret_message)
{
	static const char text[] = "the properties of this message were damaged in the store";
	struct mqfs_message *message = mqfs_message_new();

	if (!message)
		return -ENOMEM;
	if ((bytes > 0 && mqfs_body_write(message->body, 0, body, bytes) < 0) ||
	    mqfs_headers_set_string(&message->headers, "mqfs-error", text) < 0 ||
	    mqfs_headers_set_string(&message->headers, "mqfs-dead-reason", "damaged") < 0) {
		mqfs_message_free(message);
		return -ENOMEM;
	}
	*ret_message = message;
	return 0;
}

static int read_content(sqlite3_stmt *statement, int column, int64_t id, struct mqfs_message **ret_message,
                        bool *ret_damaged)
{
	const void *head = sqlite3_column_blob(statement, column);
	size_t head_bytes = (size_t)sqlite3_column_bytes(statement, column);
	const void *body = sqlite3_column_blob(statement, column + 1);
	size_t body_bytes = (size_t)sqlite3_column_bytes(statement, column + 1);
	int r = codec_decode(head, head_bytes, body, body_bytes, ret_message);

	*ret_damaged = r == -EIO;
	if (r != -EIO)
		return r;
	log_warning("message %lld: its properties are damaged; only its body is kept", (long long)id);
	return salvage(body, body_bytes, ret_message);
}

int message_read(sqlite3_stmt *statement, const char *queue, enum mqfs_place place, struct mqfs_delivery **ret_delivery,
                 bool *ret_damaged)
{
	int64_t id = sqlite3_column_int64(statement, 0);
	struct mqfs_message *message;
	struct mqfs_delivery *delivery;
	int r = read_content(statement, 5, id, &message, ret_damaged);

	if (r < 0)
		return r;
	delivery = mqfs_delivery_new(message, queue);
	if (!delivery) {
		mqfs_message_free(message);
		return -ENOMEM;
	}
	delivery->tag = (uint64_t)id;
	delivery->generation = (uint64_t)sqlite3_column_int64(statement, 1);
	delivery->redelivered = sqlite3_column_int(statement, 2) != 0;
	delivery->delivery_count = sqlite3_column_int64(statement, 3);
	delivery->next_at_us = sqlite3_column_int64(statement, 4);
	delivery->place = place;
	delivery->delivered_ms = mqfs_clock_monotonic_ms();
	*ret_delivery = delivery;
	return 0;
}

static struct mqfs_message *dead_copy(struct store *store, const struct queue *queue,
                                      const struct mqfs_message *message, const char *reason)
{
	struct mqfs_failed_attempt attempt = {
	    .now_us = mqfs_clock_realtime_us(), .dead_reason = reason, .host = store->host, .queue = queue->name};
	struct mqfs_history history;

	mqfs_history_read(message, &history);
	attempt.attempts = history.attempts; /* this was none */
	attempt.error = history.error;
	return mqfs_copy_for_dead(message, &attempt);
}

int message_bury(struct store *store, struct queue *queue, const struct message_fence *fence, const char *reason)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_CONTENT_GET];
	struct mqfs_message *message = NULL, *copy = NULL;
	bool damaged;
	int r;

	sqlite3_bind_int64(statement, 1, fence->id);
	r = statement_step(statement);
	if (r < 0)
		return r;
	if (r == 0) {
		log_warning("message %lld: its content is missing", (long long)fence->id);
		return message_delete(store, queue, fence);
	}
	r = read_content(statement, 0, fence->id, &message, &damaged);
	sqlite3_reset(statement);
	if (r < 0)
		return r;
	copy = dead_copy(store, queue, message, damaged ? "damaged" : reason);
	r = copy ? codec_encode(copy, &store->head) : -ENOMEM;
	if (r == 0)
		r = message_move(store, queue, fence, copy, false, MQFS_PLACE_DEAD, 0);
	mqfs_message_free(copy);
	mqfs_message_free(message);
	return r;
}

int message_end(struct store *store, struct queue *queue, const struct message_fence *fence, const char *reason)
{
	if (queue->dead_letter)
		return message_bury(store, queue, fence, reason);
	return message_delete(store, queue, fence);
}
