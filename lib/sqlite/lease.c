/* SPDX-License-Identifier: MIT */
#include "lease.h"

#include <unistd.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

#include "intake.h"
#include "ledger.h"

/*
 * A mount that takes messages has a row in mounts with the end of its lease, in boot time: that clock
 * never steps, goes on while the machine sleeps, and means something in one boot only, so the row has
 * the boot's id too. It is renewed every third of lease-timeout.
 *
 * The row is the truth. Others give back a mount's messages and delete its row in one transaction, and
 * only when its lease is over. So a mount that was stopped past its lease and finds its row, has lost
 * nothing and renews; one that doesn't has lost all it held, and begins anew with another id, by which no
 * settlement of an older delivery can hit. A mount whose own renewal is late was stopped, or kept from the file as all
 * others were then: it renews, and leaves the others the time to do so before it takes their leases for over. And since
 * messages are taken under the write lock, with the lease looked at under it too, nobody can give back what is being
 * taken.
 */

int64_t lease_next(const struct store *store, int64_t now_ms)
{
	bool wanted = intake_wanted(store);
	int64_t left_ms;

	if (wanted != (store->mount != 0) || (wanted && store->consumers_changed))
		return now_ms;
	if (!wanted)
		return MQFS_NEVER;
	left_ms = store->lease_until_ms - store->lease_timeout_ms * 2 / 3 - mqfs_clock_boottime_ms();
	return left_ms > 0 ? now_ms + left_ms : now_ms;
}

bool lease_holds(const struct store *store)
{
	return store->mount != 0 && mqfs_clock_boottime_ms() < store->lease_until_ms;
}

static void bind_living(const struct store *store, sqlite3_stmt *statement)
{
	sqlite3_bind_text(statement, 1, store->boot_id, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 2, mqfs_clock_boottime_ms());
	sqlite3_bind_int64(statement, 3, store->mount);
}

/* Counts, by queue, what the dead hold. */
static int lease_count_lost(struct store *store, bool *ret_any)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_LEASED_LOST];
	int r;

	*ret_any = false;
	bind_living(store, statement);
	while ((r = statement_step(statement)) == 1) {
		int64_t count = sqlite3_column_int64(statement, 1);
		struct queue *queue;

		r = ledger_queue_by_id(store, sqlite3_column_int64(statement, 0), &queue);
		if (r < 0)
			break;
		*ret_any = true;
		if (!queue)
			continue;
		ledger_count(queue, STATE_LEASED, -count);
		ledger_count(queue, STATE_READY, count);
	}
	sqlite3_reset(statement);
	return r < 0 ? r : 0;
}

static int lease_sweep(struct store *store)
{
	static const enum statement_id sweeps[] = {STATEMENT_LEASED_FREE, STATEMENT_MOUNT_SWEEP};
	bool any;
	int r = lease_count_lost(store, &any);

	for (size_t i = 0; r == 0 && i < sizeof(sweeps) / sizeof(sweeps[0]); i++) {
		bind_living(store, store->statements[sweeps[i]]);
		r = statement_run(store->statements[sweeps[i]]);
	}
	if (any)
		store->due_us = -1;
	return r < 0 ? r : statement_run(store->statements[STATEMENT_CONSUMER_SWEEP]);
}

static int lease_write_mount(struct store *store, int64_t until_ms, int64_t *mount)
{
	sqlite3_stmt *statement;
	int r;

	if (*mount != 0) {
		statement = store->statements[STATEMENT_MOUNT_RENEW];
		sqlite3_bind_int64(statement, 1, *mount);
		sqlite3_bind_int64(statement, 2, until_ms);
		r = statement_run(statement);
		if (r < 0 || sqlite3_changes(store->db) > 0)
			return r;
	}
	*mount = ledger_next(store);
	statement = store->statements[STATEMENT_MOUNT_INSERT];
	sqlite3_bind_int64(statement, 1, *mount);
	sqlite3_bind_text(statement, 2, store->boot_id, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 3, until_ms);
	sqlite3_bind_int64(statement, 4, getpid());
	return statement_run(statement);
}

static int lease_write_consumers(struct store *store, int64_t mount)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_CONSUMER_CLEAR];
	struct queue *queue;
	int r;

	sqlite3_bind_int64(statement, 1, mount);
	r = statement_run(statement);
	statement = store->statements[STATEMENT_CONSUMER_INSERT];
	for (struct intake *intake = store->intakes; intake && r == 0; intake = intake->hh.next) {
		if (!intake->active)
			continue;
		r = ledger_queue(store, intake->queue, &queue);
		if (r < 0 || !queue)
			continue; /* feeding will notice */
		sqlite3_bind_int64(statement, 1, mount);
		sqlite3_bind_int64(statement, 2, queue->id);
		r = statement_run(statement);
	}
	return r;
}

static int lease_delete_mount(struct store *store)
{
	int r;

	FAILPOINT(sqlite_leaving);
	sqlite3_bind_int64(store->statements[STATEMENT_CONSUMER_CLEAR], 1, store->mount);
	r = statement_run(store->statements[STATEMENT_CONSUMER_CLEAR]);
	if (r < 0)
		return r;
	sqlite3_bind_int64(store->statements[STATEMENT_MOUNT_DELETE], 1, store->mount);
	return statement_run(store->statements[STATEMENT_MOUNT_DELETE]);
}

/* Even a third more, and the next mount may take our own lease for over. */
static bool lease_is_late(const struct store *store, int64_t boottime_ms)
{
	return store->mount != 0 && boottime_ms > store->lease_until_ms - store->lease_timeout_ms / 3;
}

int lease_keep(struct store *store)
{
	int64_t until_ms, mount = 0, now_ms;
	int r = ledger_begin(store, true);

	if (r < 0)
		return r;
	now_ms = mqfs_clock_boottime_ms();
	until_ms = now_ms + store->lease_timeout_ms;
	if (!lease_is_late(store, now_ms))
		r = lease_sweep(store);
	if (r == 0 && intake_wanted(store)) {
		mount = store->mount;
		r = lease_write_mount(store, until_ms, &mount);
		if (r == 0 && (store->consumers_changed || mount != store->mount))
			r = lease_write_consumers(store, mount);
	} else if (r == 0) {
		r = lease_delete_mount(store);
	}
	if (r == 0)
		r = ledger_commit(store);
	else
		ledger_rollback(store);
	if (r < 0)
		return r;
	store->consumers_changed = false;
	if (store->mount != 0 && mount != 0 && mount != store->mount)
		intake_lost(store);
	store->mount = mount;
	store->lease_until_ms = until_ms;
	return 0;
}

/* As RELEASE does, for all that is held of one queue. */
static int lease_return(struct store *store, const struct intake *intake)
{
	sqlite3_stmt *statement = store->statements[STATEMENT_LEASED_RETURN];
	struct queue *queue;
	int64_t count;
	int r = ledger_queue(store, intake->queue, &queue);

	if (r < 0 || !queue)
		return r;
	sqlite3_bind_int64(statement, 1, store->mount);
	sqlite3_bind_int64(statement, 2, queue->id);
	r = statement_run(statement);
	if (r < 0)
		return r;
	count = sqlite3_changes64(store->db);
	if (count > 0) {
		ledger_count(queue, STATE_LEASED, -count);
		ledger_count(queue, STATE_READY, count);
	}
	return 0;
}

int lease_end(struct store *store)
{
	int r;

	if (store->mount == 0)
		return 0;
	r = ledger_begin(store, true);
	if (r < 0)
		return r;
	for (struct intake *intake = store->intakes; intake && r == 0; intake = intake->hh.next)
		r = lease_return(store, intake);
	if (r == 0)
		r = lease_delete_mount(store);
	if (r == 0)
		r = ledger_commit(store);
	else
		ledger_rollback(store);
	if (r == 0)
		store->mount = 0;
	return r;
}
