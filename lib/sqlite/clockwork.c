/* SPDX-License-Identifier: MIT */
#include "clockwork.h"

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#define LOG_TOPIC "sqlite"
#include <mqfs/log.h>

#include "ledger.h"
#include "messages.h"

/* Bounds the transaction, for which publishers wait. */
enum { CLOCKWORK_BATCH = 256 };

struct due_row {
	struct message_fence fence;
	int64_t queue;
};

int64_t clockwork_next(struct store *store)
{
	int r;

	if (store->due_us >= 0)
		return store->due_us;
	r = statement_integer(store->statements[STATEMENT_DUE_NEXT], INT64_MAX, &store->due_us);
	return r < 0 ? r : store->due_us;
}

/* The rows first, then what becomes of them: a row that changes moves in the index that is being read. */
static int due_rows(struct store *store, enum statement_id id, enum message_state state,
                    struct due_row rows[CLOCKWORK_BATCH])
{
	sqlite3_stmt *statement = store->statements[id];
	int count = 0, r;

	sqlite3_bind_int64(statement, 1, mqfs_clock_realtime_us());
	sqlite3_bind_int(statement, 2, CLOCKWORK_BATCH);
	while ((r = statement_step(statement)) == 1 && count < CLOCKWORK_BATCH) {
		rows[count].fence = (struct message_fence){.id = sqlite3_column_int64(statement, 0),
		                                           .generation = sqlite3_column_int64(statement, 1),
		                                           .state = state};
		rows[count++].queue = sqlite3_column_int64(statement, 2);
	}
	sqlite3_reset(statement);
	return r < 0 ? r : count;
}

/* A row that makes no sense is left to whoever repairs the file; but it must not be due again at once. */
static int set_aside(struct store *store, int64_t id)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_MESSAGE_SET_ASIDE];

	log_warning("message %lld: its row is damaged", (long long)id);
	sqlite3_bind_int64(statement, 1, id);
	return statement_run(statement);
}

static int one_due(struct store *store, const struct due_row *row)
{
	struct queue *queue;
	int r = ledger_queue_by_id(store, row->queue, &queue);

	if (r == 0 && queue && row->fence.state == STATE_RETRY)
		r = message_wake(store, queue, &row->fence);
	else if (r == 0 && queue)
		r = message_end(store, queue, &row->fence, "expired");
	return r == 0 ? set_aside(store, row->fence.id) : r;
}

static int each_due(struct store *store, enum statement_id id, enum message_state state)
{
	struct due_row rows[CLOCKWORK_BATCH];
	int count = due_rows(store, id, state, rows);

	for (int i = 0; i < count; i++) {
		int r = one_due(store, &rows[i]);

		if (r < 0)
			return r;
	}
	return count;
}

int clockwork_run(struct store *store)
{
	int back, ended = 0, r;

	r = ledger_begin(store, true);
	if (r < 0)
		return r;
	back = each_due(store, STATEMENT_DUE_RETRY, STATE_RETRY);
	if (back >= 0)
		ended = each_due(store, STATEMENT_DUE_EXPIRED, STATE_READY);
	if (back < 0 || ended < 0) {
		ledger_rollback(store);
		return back < 0 ? back : ended;
	}
	store->due_us = -1;
	FAILPOINT(sqlite_waking);
	r = ledger_commit(store);
	if (r < 0)
		return r;
	return back == CLOCKWORK_BATCH || ended == CLOCKWORK_BATCH;
}
