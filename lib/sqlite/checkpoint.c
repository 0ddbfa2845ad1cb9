/* SPDX-License-Identifier: MIT */
#include "checkpoint.h"

#include <errno.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

/*
 * When the disk fills up, messages have to get out, and deleting them takes room in the log. There is
 * some as long as the log can be moved into the file, after which it is written from its start again. So no
 * commit may put more into the log than the file has room for: the file grows first, by chunks, and what
 * doesn't fit is refused.
 */

enum {
	CHUNK_BYTES = 1 << 20,
	CHECKPOINT_PAGES = 4000,              /* 16 MiB of log */
	RESTART_PAGES = 4 * CHECKPOINT_PAGES, /* somebody reads on and on: now wait for them */
	IDLE_MS = 1000,
	IDLE_PAGES = 64, /* not for every renewed lease */
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

int checkpoint_init(struct store *store)
{
	int chunk = CHUNK_BYTES;

	sqlite3_file_control(store->db, NULL, SQLITE_FCNTL_CHUNK_SIZE, &chunk);
	sqlite3_wal_hook(store->db, checkpoint_committed, store);
	return statement_integer(store->statements[STATEMENT_PAGE_SIZE], 0, &store->page_bytes);
}

int64_t checkpoint_next(const struct store *store)
{
	if (store->log_pages <= IDLE_PAGES)
		return MQFS_NEVER;
	return store->committed_ms + (store->log_pages > CHECKPOINT_PAGES ? 0 : IDLE_MS);
}

static void checkpoint(struct store *store, int mode, int64_t now_ms)
{
	int pages = 0, moved = 0;

	store->busy_until_ms = now_ms + RESTART_PATIENCE_MS;
	FAILPOINT(sqlite_checkpointing);
	if (sqlite3_wal_checkpoint_v2(store->db, NULL, mode, &pages, &moved) == SQLITE_OK && pages == moved)
		store->log_pages = 0;
	else
		store->committed_ms = now_ms + IDLE_MS; /* not again at once */
	FAILPOINT(sqlite_checkpointed);
}

void checkpoint_run(struct store *store, int64_t now_ms)
{
	if (now_ms >= checkpoint_next(store))
		checkpoint(store,
		           store->log_pages > RESTART_PAGES ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE,
		           now_ms);
}

int checkpoint_reserve(struct store *store)
{
	sqlite3_int64 bytes;
	int64_t pages = 0;
	int r = 0;

	if (sqlite3_txn_state(store->db, NULL) == SQLITE_TXN_WRITE)
		r = statement_integer(store->statements[STATEMENT_PAGE_COUNT], 0, &pages);
	if (r < 0 || pages <= store->reserved_pages)
		return r;
	bytes = (pages * store->page_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES * CHUNK_BYTES;
	r = sqlite3_file_control(store->db, NULL, SQLITE_FCNTL_SIZE_HINT, &bytes);
	if (r != SQLITE_OK)
		return errno == EDQUOT || errno == ENOSPC || r == SQLITE_FULL ? -ENOSPC : -EIO;
	store->reserved_pages = bytes / store->page_bytes;
	return 0;
}

void checkpoint_make_room(struct store *store)
{
	checkpoint(store, SQLITE_CHECKPOINT_PASSIVE, mqfs_clock_monotonic_ms());
}
