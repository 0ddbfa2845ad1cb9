/* SPDX-License-Identifier: MIT */
#include "queues.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>

#include "ledger.h"

int queues_declare(struct store *store, struct request *request)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_QUEUE_INSERT];
	struct queue *queue;
	int r = ledger_queue(store, request->queue, &queue);

	if (r < 0)
		return r;
	if (queue)
		return request_refuse(request, -EEXIST, "the queue exists already");
	sqlite3_bind_int64(statement, 1, ledger_next(store));
	sqlite3_bind_text(statement, 2, request->queue, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 3, request->declare.max_priority);
	sqlite3_bind_int64(statement, 4, request->declare.message_ttl_ms);
	sqlite3_bind_int64(statement, 5, request->declare.max_length);
	sqlite3_bind_int(statement, 6, request->declare.overflow);
	sqlite3_bind_int(statement, 7, request->declare.dead_letter);
	return statement_run(statement);
}

int queues_find(struct store *store, struct request *request)
{
	struct queue *queue;
	int r = ledger_queue(store, request->queue, &queue);

	if (r == 0 && !queue)
		return request_refuse(request, -ENOENT, "no such queue");
	return r;
}

/* How many living mounts consume it; *ret_others: but for this one. */
static int consumers_of(struct store *store, const struct queue *queue, int64_t *ret_all, int64_t *ret_others)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_CONSUMER_COUNT];
	int r;

	sqlite3_bind_text(statement, 1, store->boot_id, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 2, mqfs_clock_boottime_ms());
	sqlite3_bind_int64(statement, 3, store->mount);
	sqlite3_bind_int64(statement, 4, queue->id);
	r = statement_step(statement);
	if (r <= 0)
		return r;
	*ret_all = sqlite3_column_int64(statement, 0);
	*ret_others = sqlite3_column_int64(statement, 1);
	sqlite3_reset(statement);
	return 0;
}

static int queues_remove(struct store *store, int64_t id)
{
	int r;

	sqlite3_bind_int64(store->statements[STATEMENT_CONSUMER_FORGET], 1, id);
	r = statement_run(store->statements[STATEMENT_CONSUMER_FORGET]);
	if (r < 0)
		return r;
	sqlite3_bind_int64(store->statements[STATEMENT_QUEUE_DELETE], 1, id);
	return statement_run(store->statements[STATEMENT_QUEUE_DELETE]);
}

int queues_delete(struct store *store, struct request *request)
{
	struct queue *queue;
	int64_t all = 0, others = 0;
	int r = ledger_queue(store, request->queue, &queue);

	if (r == 0 && queue)
		r = consumers_of(store, queue, &all, &others);
	if (r < 0)
		return r;
	if (!queue)
		return request_refuse(request, -ENOENT, "no such queue");
	for (int state = 0; state < STATES; state++)
		if (queue->counts[state] != 0)
			return request_refuse(request, -ENOTEMPTY, "the queue is not empty");
	if (others > 0)
		return request_refuse(request, -EBUSY, "another mount consumes the queue");
	r = queues_remove(store, queue->id);
	if (r == 0)
		ledger_drop(store, queue);
	return r;
}

int queues_list(struct store *store, struct request *request)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_QUEUE_LIST];
	size_t room = 0;
	int r;

	while ((r = statement_step(statement)) == 1) {
		if (request->count == room) {
			char **grown = realloc(request->names, (room = room * 2 + 16) * sizeof(*grown));

			if (!grown)
				break;
			request->names = grown;
		}
		r = ledger_name(statement, 0, &request->names[request->count]);
		if (r == -EIO)
			continue; /* damaged: nobody can ask for it */
		if (r < 0)
			break;
		request->count++;
	}
	sqlite3_reset(statement);
	return r == 1 ? -ENOMEM : r;
}

int queues_depths(struct store *store, struct request *request)
{
	struct queue *queue;
	int64_t all = 0, others = 0;
	int r = ledger_queue(store, request->queue, &queue);

	if (r == 0 && queue)
		r = consumers_of(store, queue, &all, &others);
	if (r < 0)
		return r;
	if (!queue)
		return request_refuse(request, -ENOENT, "no such queue");
	request->depths = (struct mqfs_depths){.ready = queue->counts[STATE_READY],
	                                       .consumers = all,
	                                       .retry = queue->counts[STATE_RETRY],
	                                       .dead = queue->counts[STATE_DEAD]};
	return 0;
}
