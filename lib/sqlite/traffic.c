/* SPDX-License-Identifier: MIT */
#include "traffic.h"

#include <errno.h>
#include <stdlib.h>

#include "intake.h"
#include "ledger.h"
#include "messages.h"

/* A look is answered from memory: where its bodies come to more than this, it ends early. */
#define BROWSE_BYTES_MAX ((size_t)64 << 20)

/* Properties and headers together: what fits a frame of RabbitMQ's, so that what is accepted here is there too. */
#define HEAD_BYTES_MAX ((size_t)128 << 10)

/* Refuses before anything is written, so that a refusal needs nothing undone. 1: it may come in. */
static int traffic_admit(struct store *store, struct request *request, const struct queue *queue, bool limited)
{
	int r;

	if (!queue) {
		request_refuse(request, -ENOENT, "no such queue");
		return 0;
	}
	if (limited && request->place == MQFS_PLACE_READY && message_admit(queue) < 0) {
		request_refuse(request, -ENOSPC, "queue is full");
		return 0;
	}
	r = codec_encode(request->message, &store->head);
	if (r == 0 && limited && store->head.bytes > HEAD_BYTES_MAX)
		r = -EINVAL;
	if (r == -EINVAL) {
		request_refuse(request, r, "the headers are too large, or nested too deep");
		return 0;
	}
	return r < 0 ? r : 1;
}

int traffic_publish(struct store *store, struct request *request)
{
	struct queue *queue;
	int r = ledger_queue(store, request->queue, &queue);

	if (r == 0)
		r = traffic_admit(store, request, queue, true);
	if (r <= 0)
		return r;
	return message_insert(store, queue, request->message, request->place, request->delay_ms);
}

static int traffic_moved_on(struct request *request)
{
	if (request->settle.delivery->place == MQFS_PLACE_READY)
		return request_refuse(request, -ESTALE, "its lease was over: it is delivered again");
	return request_refuse(request, -ENOENT, "the message is no longer there");
}

static struct message_fence traffic_fence(const struct store *store, const struct mqfs_delivery *delivery)
{
	return (struct message_fence){.id = (int64_t)delivery->tag,
	                              .generation = (int64_t)delivery->generation,
	                              .state = delivery->place == MQFS_PLACE_READY   ? STATE_LEASED
	                                       : delivery->place == MQFS_PLACE_RETRY ? STATE_RETRY
	                                                                             : STATE_DEAD,
	                              .mount = store->mount};
}

/* To the end of another queue, or, as a replay or a forward, to the end of its own. */
static int traffic_move_away(struct store *store, struct request *request, struct queue *from, struct queue *to,
                             const struct message_fence *fence)
{
	int r = message_delete(store, from, fence);

	if (r == 1) {
		r = message_insert(store, to, request->message, request->place, request->delay_ms);
		return r < 0 ? r : 1;
	}
	return r;
}

static int traffic_move(struct store *store, struct request *request, struct queue *from,
                        const struct message_fence *fence)
{
	bool body = request->message->body != request->settle.delivery->message->body;
	struct queue *to = from;
	bool away;
	int r = 0;

	if (request->target)
		r = ledger_queue(store, request->target, &to);
	/* A forward names its queue, also when that is the delivery's own. */
	away = request->target || (fence->state == STATE_DEAD && request->place == MQFS_PLACE_READY);
	if (r == 0)
		r = traffic_admit(store, request, to, away);
	if (r < 0 || request->result < 0)
		return r < 0 ? r : 1;
	if (away)
		return traffic_move_away(store, request, from, to, fence);
	return message_move(store, from, fence, request->message, body, request->place, request->delay_ms);
}

int traffic_settle(struct store *store, struct request *request)
{
	const struct mqfs_delivery *delivery = request->settle.delivery;
	struct message_fence fence = traffic_fence(store, delivery);
	struct queue *queue;
	int r = ledger_queue(store, delivery->queue, &queue);

	if (r < 0)
		return r;
	if (!queue)
		return traffic_moved_on(request);
	switch (request->settle.verb) {
	case MQFS_VERB_ACK:
		r = message_delete(store, queue, &fence);
		break;
	case MQFS_VERB_RELEASE:
		/* A look holds nothing that could be put back. */
		r = fence.state == STATE_LEASED ? message_release(store, queue, &fence) : 1;
		break;
	case MQFS_VERB_MOVE:
		r = traffic_move(store, request, queue, &fence);
		break;
	}
	if (r < 0)
		return r;
	if (r == 0)
		return traffic_moved_on(request);
	if (request->result == 0 && fence.state == STATE_LEASED)
		intake_settled(store, delivery->queue);
	return 0;
}

static int traffic_grow(struct request *request, size_t *room)
{
	struct mqfs_delivery **grown;

	if (request->count < *room)
		return 0;
	*room = *room * 2 + 16;
	grown = realloc(request->deliveries, *room * sizeof(struct mqfs_delivery *));
	if (!grown)
		return -ENOMEM;
	request->deliveries = grown;
	return 0;
}

int traffic_browse(struct store *store, struct request *request)
{
	bool retry = request->place == MQFS_PLACE_RETRY;
	sqlite3_stmt *statement = store->statements[retry ? STATEMENT_MESSAGE_RETRY : STATEMENT_MESSAGE_DEAD];
	size_t room = 0, bytes = 0;
	struct queue *queue;
	bool damaged;
	int r = ledger_queue(store, request->queue, &queue);

	if (r < 0 || !queue || request->place == MQFS_PLACE_READY)
		return r;
	sqlite3_bind_int64(statement, 1, queue->id);
	sqlite3_bind_int64(statement, 2, (int64_t)request->browse.limit);
	while (bytes < BROWSE_BYTES_MAX && (r = statement_step(statement)) == 1) {
		r = traffic_grow(request, &room);
		if (r == 0)
			r = message_read(statement, request->queue, request->place,
			                 &request->deliveries[request->count], &damaged);
		if (r < 0)
			break;
		bytes += request->deliveries[request->count++]->message->body->bytes;
	}
	sqlite3_reset(statement);
	return r < 0 ? r : 0;
}
