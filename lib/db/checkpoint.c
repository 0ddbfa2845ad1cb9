/* SPDX-License-Identifier: MIT */
#include "checkpoint.h"

#include <errno.h>
#include <time.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

#include "statement.h"

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
	BUSY_WAIT_US = 250, /* at first; then four times as long */
};

static int checkpoint_committed(void *arg, sqlite3 *db, const char *name, int pages)
{
	struct checkpoint *checkpoint = arg;

	(void)db;
	(void)name;
	checkpoint->log_pages = pages;
	checkpoint->committed_ms = mqfs_clock_monotonic_ms();
	return SQLITE_OK;
}

static int checkpoint_busy(void *arg, int count)
{
	struct checkpoint *checkpoint = arg;
	struct timespec pause = {.tv_nsec = (count < 4 ? 1 : 4) * BUSY_WAIT_US * 1000};

	if (mqfs_clock_monotonic_ms() >= checkpoint->busy_until_ms)
		return 0;
	nanosleep(&pause, NULL);
	return 1;
}

int checkpoint_init(struct checkpoint *checkpoint, sqlite3 *db)
{
	sqlite3_stmt *page_size = NULL;
	int chunk = CHUNK_BYTES;
	int r;

	/* While whoever opened it still waits for others: they may just be closing the file. */
	if (sqlite3_prepare_v2(db, "PRAGMA page_size", -1, &page_size, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v3(db, "PRAGMA page_count", -1, SQLITE_PREPARE_PERSISTENT, &checkpoint->page_count, NULL) !=
	        SQLITE_OK)
		r = statement_errno(db);
	else
		r = statement_integer(page_size, 0, &checkpoint->page_bytes);
	sqlite3_finalize(page_size);
	if (r < 0)
		return r;
	checkpoint->db = db;
	sqlite3_file_control(db, NULL, SQLITE_FCNTL_CHUNK_SIZE, &chunk);
	sqlite3_busy_handler(db, checkpoint_busy, checkpoint);
	sqlite3_wal_hook(db, checkpoint_committed, checkpoint);
	return 0;
}

void checkpoint_deinit(struct checkpoint *checkpoint)
{
	sqlite3_finalize(checkpoint->page_count);
	checkpoint->page_count = NULL;
}

int64_t checkpoint_next(const struct checkpoint *checkpoint)
{
	if (checkpoint->log_pages <= IDLE_PAGES)
		return MQFS_NEVER;
	return checkpoint->committed_ms + (checkpoint->log_pages > CHECKPOINT_PAGES ? 0 : IDLE_MS);
}

static void move_log(struct checkpoint *checkpoint, int mode, int64_t now_ms)
{
	int pages = 0, moved = 0;

	checkpoint->busy_until_ms = now_ms + RESTART_PATIENCE_MS;
	FAILPOINT(sqlite_checkpointing);
	if (sqlite3_wal_checkpoint_v2(checkpoint->db, NULL, mode, &pages, &moved) == SQLITE_OK && pages == moved) {
		checkpoint->log_pages = 0;
		checkpoint->reserved_pages = 0;
	} else {
		checkpoint->committed_ms = now_ms + IDLE_MS; /* not again at once */
	}
	FAILPOINT(sqlite_checkpointed);
}

void checkpoint_run(struct checkpoint *checkpoint, int64_t now_ms)
{
	if (now_ms < checkpoint_next(checkpoint))
		return;
	move_log(checkpoint,
	         checkpoint->log_pages > RESTART_PAGES ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE, now_ms);
}

int checkpoint_reserve(struct checkpoint *checkpoint)
{
	sqlite3_int64 bytes;
	int64_t pages = 0;
	int r = 0;

	if (sqlite3_txn_state(checkpoint->db, NULL) == SQLITE_TXN_WRITE)
		r = statement_integer(checkpoint->page_count, 0, &pages);
	if (r < 0 || pages <= checkpoint->reserved_pages)
		return r;
	bytes = (pages * checkpoint->page_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES * CHUNK_BYTES;
	errno = 0;
	r = sqlite3_file_control(checkpoint->db, NULL, SQLITE_FCNTL_SIZE_HINT, &bytes);
	/* posix_fallocate(3) sets no errno, and fails for want of room. */
	if (r == SQLITE_IOERR_WRITE && errno == 0)
		return -ENOSPC;
	if (r != SQLITE_OK)
		return errno == EDQUOT || errno == ENOSPC || r == SQLITE_FULL ? -ENOSPC : -EIO;
	checkpoint->reserved_pages = bytes / checkpoint->page_bytes;
	return 0;
}

void checkpoint_make_room(struct checkpoint *checkpoint)
{
	move_log(checkpoint, SQLITE_CHECKPOINT_PASSIVE, mqfs_clock_monotonic_ms());
}
