/* SPDX-License-Identifier: MIT */
#include "ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

/* Nothing that mqfs has counted is larger; what is comes of damage, and sums with it must not overflow. */
#define NUMBER_MAX (INT64_C(1) << 60)

/* How long one attempt waits for another process's lock; deadlines are looked at in between. */
enum { LEDGER_PATIENCE_MS = 100 };

void ledger_drop(struct store *store, struct queue *queue)
{
	HASH_DELETE(by_id, store->queues_by_id, queue);
	HASH_DELETE(by_name, store->queues_by_name, queue);
	free(queue->name);
	free(queue);
}

void ledger_forget(struct store *store)
{
	struct queue *queue, *next;

	HASH_ITER(by_name, store->queues_by_name, queue, next)
	ledger_drop(store, queue);
	store->sequence = -1;
	store->sequence_changed = false;
}

int ledger_sync(struct store *store)
{
	int64_t version;
	int r = statement_integer(store->statements[STATEMENT_DATA_VERSION], 0, &version);

	if (r < 0 || version == store->data_version)
		return r;
	store->data_version = version;
	store->checkpoint.reserved_pages = 0;
	store->due_us = -1;
	ledger_forget(store);
	return 1;
}

static int ledger_read_sequence(struct store *store)
{
	int64_t sequence;
	int r = statement_integer(store->statements[STATEMENT_SEQUENCE_GET], -1, &sequence);

	if (r == 0 && (sequence < 0 || sequence > NUMBER_MAX))
		r = -EIO;
	if (r == 0)
		store->sequence = sequence;
	return r;
}

int ledger_begin(struct store *store, bool write)
{
	int r;

	store->checkpoint.busy_until_ms = mqfs_clock_monotonic_ms() + LEDGER_PATIENCE_MS;
	r = statement_run(store->statements[write ? STATEMENT_BEGIN_WRITE : STATEMENT_BEGIN_READ]);
	if (r < 0)
		return r;
	r = ledger_sync(store);
	if (r >= 0 && store->sequence < 0)
		r = ledger_read_sequence(store);
	if (r < 0) {
		ledger_rollback(store);
		return r;
	}
	return 0;
}

static int ledger_write_counts(struct store *store, struct queue *queue)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_QUEUE_COUNTS];

	sqlite3_bind_int64(statement, 1, queue->id);
	for (int state = 0; state < STATES; state++)
		sqlite3_bind_int64(statement, 2 + state, queue->counts[state]);
	return statement_run(statement);
}

static int ledger_flush(struct store *store)
{
	int r = 0;

	for (struct queue *queue = store->queues_by_name; queue && r == 0; queue = queue->by_name.next) {
		if (queue->changed)
			r = ledger_write_counts(store, queue);
		queue->changed = false;
	}
	if (r == 0 && store->sequence_changed) {
		sqlite3_bind_int64(store->statements[STATEMENT_SEQUENCE_SET], 1, store->sequence);
		r = statement_run(store->statements[STATEMENT_SEQUENCE_SET]);
		store->sequence_changed = false;
	}
	return r;
}

int ledger_commit(struct store *store)
{
	int r = ledger_flush(store);

	if (r == 0)
		r = checkpoint_reserve(&store->checkpoint);
	FAILPOINT(sqlite_committing);
	if (r == 0)
		r = statement_run(store->statements[STATEMENT_COMMIT]);
	FAILPOINT(sqlite_committed);
	if (r < 0)
		ledger_rollback(store);
	return r;
}

void ledger_rollback(struct store *store)
{
	/* Some errors have rolled back by themselves. */
	if (!sqlite3_get_autocommit(store->db))
		statement_run(store->statements[STATEMENT_ROLLBACK]);
	store->checkpoint.reserved_pages = 0;
	ledger_forget(store);
	store->due_us = -1;
}

int ledger_name(sqlite3_stmt *statement, int column, char **ret_name)
{
	const char *text = (const char *)sqlite3_column_text(statement, column);

	if (!text)
		return sqlite3_column_type(statement, column) == SQLITE_NULL ? -EIO : -ENOMEM;
	if (!text[0] || strlen(text) > MQFS_NAME_MAX || strlen(text) != (size_t)sqlite3_column_bytes(statement, column))
		return -EIO;
	*ret_name = strdup(text);
	return *ret_name ? 0 : -ENOMEM;
}

static int64_t ledger_column(sqlite3_stmt *statement, int column)
{
	int64_t number = sqlite3_column_int64(statement, column);

	return number < 0 ? 0 : number < NUMBER_MAX ? number : NUMBER_MAX;
}

/* Owns queue from now on. 0 or -ENOMEM. */
static int ledger_add(struct store *store, struct queue *queue)
{
	HASH_ADD_KEYPTR(by_name, store->queues_by_name, queue->name, strlen(queue->name), queue);
	if (queue->by_name.tbl)
		HASH_ADD(by_id, store->queues_by_id, id, sizeof(queue->id), queue);
	if (queue->by_name.tbl && queue->by_id.tbl)
		return 0;
	if (queue->by_name.tbl)
		HASH_DELETE(by_name, store->queues_by_name, queue);
	free(queue->name);
	free(queue);
	return -ENOMEM;
}

static int ledger_load(struct store *store, sqlite3_stmt *statement, struct queue **ret_queue)
{
	struct queue *queue;
	int r = statement_step(statement);

	*ret_queue = NULL;
	if (r <= 0)
		return r;
	queue = calloc(1, sizeof(*queue));
	r = queue ? ledger_name(statement, 1, &queue->name) : -ENOMEM;
	if (r < 0) {
		sqlite3_reset(statement);
		free(queue);
		return r == -EIO ? 0 : r;
	}
	queue->id = sqlite3_column_int64(statement, 0);
	queue->max_priority = ledger_column(statement, 2);
	queue->message_ttl_ms = ledger_column(statement, 3);
	queue->max_length = ledger_column(statement, 4);
	queue->overflow = sqlite3_column_int(statement, 5);
	queue->dead_letter = sqlite3_column_int(statement, 6) != 0;
	for (int state = 0; state < STATES; state++)
		queue->counts[state] = ledger_column(statement, 7 + state);
	sqlite3_reset(statement);
	r = ledger_add(store, queue);
	if (r == 0)
		*ret_queue = queue;
	return r;
}

int ledger_queue(struct store *store, const char *name, struct queue **ret_queue)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_QUEUE_BY_NAME];

	HASH_FIND(by_name, store->queues_by_name, name, strlen(name), *ret_queue);
	if (*ret_queue)
		return 0;
	sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
	return ledger_load(store, statement, ret_queue);
}

int ledger_queue_by_id(struct store *store, int64_t id, struct queue **ret_queue)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_QUEUE_BY_ID];

	HASH_FIND(by_id, store->queues_by_id, &id, sizeof(id), *ret_queue);
	if (*ret_queue)
		return 0;
	sqlite3_bind_int64(statement, 1, id);
	return ledger_load(store, statement, ret_queue);
}

void ledger_count(struct queue *queue, enum message_state state, int64_t change)
{
	queue->counts[state] += change;
	queue->changed = true;
}

int64_t ledger_next(struct store *store)
{
	store->sequence_changed = true;
	return ++store->sequence;
}
