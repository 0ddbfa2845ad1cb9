/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <mqfs/clock.h>

#include "db/codec.h"

#include "outbox_internal.h"
#include "twin.h"

/* Entries as rows. */

enum { REMOVALS_KEPT = 10000 }; /* watch.c scans when it has missed more */

int entry_revise(struct mqfs_state *state, int64_t bytes, int64_t *ret_revision)
{
	static const char update[] = "UPDATE about SET revision = revision + 1, bytes = bytes + ?1 RETURNING revision";
	sqlite3_stmt *statement = state_statement(state, update);

	sqlite3_bind_int64(statement, 1, bytes);
	return statement_integer(statement, 0, ret_revision);
}

static bool is_in_flight(struct mqfs_state *state, int kind, int64_t position, int64_t flight_to, const char *boot,
                         int64_t lease_until)
{
	return kind == MQFS_ENTRY_WAITING && position <= flight_to && boot && strcmp(boot, state_boot_id(state)) == 0 &&
	       lease_until > mqfs_clock_boottime_ms();
}

void entry_read(struct mqfs_state *state, sqlite3_stmt *statement, struct entry_row *ret_row)
{
	struct mqfs_entry *entry = &ret_row->entry;
	const char *base = (const char *)sqlite3_column_text(statement, 5);

	ret_row->revision = sqlite3_column_int64(statement, 0);
	ret_row->position = sqlite3_column_int64(statement, 14);
	ret_row->line = sqlite3_column_int64(statement, 15);
	ret_row->bytes = sqlite3_column_int64(statement, 19);
	twin_write(base ? base : "", sqlite3_column_int64(statement, 6), ret_row->name);
	*entry = (struct mqfs_entry){
	    .id = sqlite3_column_int64(statement, 1),
	    .kind = sqlite3_column_int(statement, 2),
	    .queue = (const char *)sqlite3_column_text(statement, 3),
	    .priority = sqlite3_column_int(statement, 4),
	    .name = ret_row->name,
	    .mode = (mode_t)sqlite3_column_int(statement, 7),
	    .body_bytes = sqlite3_column_int64(statement, 8),
	    .modified_us = sqlite3_column_int64(statement, 9),
	    .due_us = sqlite3_column_int64(statement, 10),
	    .spoiled = sqlite3_column_int(statement, 11) != 0,
	    .error = sqlite3_column_int(statement, 12),
	    .reason = (const char *)sqlite3_column_text(statement, 13),
	};
	entry->in_flight =
	    is_in_flight(state, (int)entry->kind, ret_row->position, sqlite3_column_int64(statement, 16),
	                 (const char *)sqlite3_column_text(statement, 17), sqlite3_column_int64(statement, 18));
}

int entry_find(struct mqfs_state *state, int64_t id, struct entry_row *ret_row, sqlite3_stmt **ret_statement)
{
	static const char select[] = "SELECT " ENTRY_COLUMNS ENTRY_FROM " WHERE e.id = ?1";
	sqlite3_stmt *statement = state_statement(state, select);
	int r;

	*ret_statement = statement;
	sqlite3_bind_int64(statement, 1, id);
	r = statement_step(statement);
	if (r == 1)
		entry_read(state, statement, ret_row);
	return r;
}

int entry_delete(struct mqfs_state *state, int64_t id, int64_t bytes, bool sent)
{
	static const char delete_entry[] = "DELETE FROM entry WHERE id = ?1";
	static const char delete_content[] = "DELETE FROM content WHERE id = ?1";
	static const char insert[] = "INSERT INTO removal (revision, id, sent) VALUES (?1, ?2, ?3)";
	static const char prune[] = "DELETE FROM removal WHERE revision <= ?1";
	sqlite3_stmt *statement = state_statement(state, delete_entry);
	int64_t revision;
	int r = entry_revise(state, -bytes, &revision);

	sqlite3_bind_int64(statement, 1, id);
	if (r == 0)
		r = statement_run(statement);
	statement = state_statement(state, delete_content);
	sqlite3_bind_int64(statement, 1, id);
	if (r == 0)
		r = statement_run(statement);
	if (r < 0)
		return r;
	statement = state_statement(state, insert);
	sqlite3_bind_int64(statement, 1, revision);
	sqlite3_bind_int64(statement, 2, id);
	sqlite3_bind_int(statement, 3, sent);
	r = statement_run(statement);
	if (r < 0)
		return r;
	statement = state_statement(state, prune);
	sqlite3_bind_int64(statement, 1, revision - REMOVALS_KEPT);
	return statement_run(statement);
}

int entry_refuse(struct mqfs_state *state, int64_t id, int error, const char *reason)
{
	static const char update[] = "UPDATE entry SET revision = ?2, kind = 1, position = 0, error = ?3, reason = ?4,"
	                             " due_at = min(0, ?5 - due_at)"
	                             " WHERE id = ?1";
	sqlite3_stmt *statement;
	int64_t revision;
	int r = entry_revise(state, 0, &revision);

	if (r < 0)
		return r;
	statement = state_statement(state, update);
	sqlite3_bind_int64(statement, 1, id);
	sqlite3_bind_int64(statement, 2, revision);
	sqlite3_bind_int(statement, 3, error);
	sqlite3_bind_text(statement, 4, reason, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 5, mqfs_clock_realtime_us());
	return statement_run(statement);
}

int entry_decode(sqlite3_stmt *statement, int head_column, struct mqfs_message **ret_message)
{
	const void *head = sqlite3_column_blob(statement, head_column);
	const void *body = sqlite3_column_blob(statement, head_column + 1);

	return codec_decode(head, (size_t)sqlite3_column_bytes(statement, head_column), body,
	                    (size_t)sqlite3_column_bytes(statement, head_column + 1), ret_message);
}
