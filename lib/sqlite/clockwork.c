/* SPDX-License-Identifier: MIT */
#include "clockwork.h"

#include <errno.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

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

static int each_due(struct store *store, enum statement_id id, enum message_state state)
{
	struct due_row rows[CLOCKWORK_BATCH];
	int count = due_rows(store, id, state, rows);
	struct queue *queue;

	for (int i = 0; i < count; i++) {
		int r = ledger_queue_by_id(store, rows[i].queue, &queue);

		if (r == 0 && !queue)
			r = -EIO;
		if (r == 0 && state == STATE_RETRY)
			r = message_wake(store, queue, &rows[i].fence);
		else if (r == 0)
			r = message_end(store, queue, &rows[i].fence, "expired");
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
