/* SPDX-License-Identifier: MIT */
#include "checkpoint.h"

#include <mqfs/clock.h>

enum {
	CHECKPOINT_PAGES = 4000,              /* 16 MiB of log */
	RESTART_PAGES = 4 * CHECKPOINT_PAGES, /* somebody reads on and on: now wait for them */
	IDLE_MS = 1000,
	RESTART_PATIENCE_MS = 100,
};

static int checkpoint_committed(void *arg, sqlite3 *db, const char *name, int pages)
{
	struct store *store = arg;

	(void)db;
	(void)name;
	store->log_pages = pages;
	store->committed_ms = mqfs_clock_monotonic_ms();
	return SQLITE_OK;
}

void checkpoint_init(struct store *store)
{
	sqlite3_wal_hook(store->db, checkpoint_committed, store);
}

int64_t checkpoint_next(const struct store *store)
{
	if (store->log_pages == 0)
		return MQFS_NEVER;
	return store->committed_ms + (store->log_pages > CHECKPOINT_PAGES ? 0 : IDLE_MS);
}

static void checkpoint(struct store *store, int mode, int64_t now_ms)
{
	int pages = 0, moved = 0;

	store->busy_until_ms = now_ms + RESTART_PATIENCE_MS;
	if (sqlite3_wal_checkpoint_v2(store->db, NULL, mode, &pages, &moved) == SQLITE_OK && pages == moved)
		store->log_pages = 0;
	else
		store->committed_ms = now_ms + IDLE_MS; /* not again at once */
}

void checkpoint_run(struct store *store, int64_t now_ms)
{
	if (now_ms >= checkpoint_next(store))
		checkpoint(store,
		           store->log_pages > RESTART_PAGES ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE,
		           now_ms);
}

void checkpoint_make_room(struct store *store)
{
	checkpoint(store, SQLITE_CHECKPOINT_PASSIVE, mqfs_clock_monotonic_ms());
}
