/* SPDX-License-Identifier: MIT */
#include "database.h"

#include <ftw.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES "512"
#define EDITS_MAX 32

static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};

/* ---- files ---- */

static char room[256];

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
	(void)status, (void)kind, (void)walk;
	return remove(path);
}

static void remove_room(void)
{
	nftw(room, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *database_room(void)
{
	const char *parent = getenv("TMPDIR");

	if (room[0])
		return room;
	if (!parent || !*parent)
		parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	EXPECT(snprintf(room, sizeof(room), "%s/mqfs-fuzz-XXXXXX", parent) < (int)sizeof(room));
	EXPECT(mkdtemp(room));
	atexit(remove_room);
	return room;
}

static char *beside(const char *path, const char *suffix)
{
	char *name;

	EXPECT(asprintf(&name, "%s%s", path, suffix) > 0);
	return name;
}

static unsigned char *read_file(const char *path, size_t *ret_count)
{
	FILE *file = fopen(path, "rb");
	unsigned char *bytes;
	struct stat status;

	*ret_count = 0;
	if (!file)
		return NULL;
	EXPECT(fstat(fileno(file), &status) == 0);
	bytes = malloc((size_t)status.st_size + 1);
	EXPECT(bytes && fread(bytes, 1, (size_t)status.st_size, file) == (size_t)status.st_size);
	fclose(file);
	*ret_count = (size_t)status.st_size;
	return bytes;
}

void database_read(const char *path, struct database *ret_database)
{
	for (size_t i = 0; i < 2; i++) {
		char *name = beside(path, suffixes[i]);

		ret_database->bytes[i] = read_file(name, &ret_database->counts[i]);
		free(name);
	}
}

void database_free(struct database *database)
{
	free(database->bytes[0]);
	free(database->bytes[1]);
	*database = (struct database){0};
}

void database_write(const char *path, const struct database *database)
{
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		char *name = beside(path, suffixes[i]);
		FILE *file;

		unlink(name);
		if (i < 2 && database->bytes[i]) {
			file = fopen(name, "wb");
			EXPECT(file && fwrite(database->bytes[i], 1, database->counts[i], file) == database->counts[i]);
			EXPECT(fclose(file) == 0);
		}
		free(name);
	}
}

static bool same_file(const struct database *a, const struct database *b, size_t i)
{
	return a->counts[i] == b->counts[i] &&
	       (a->counts[i] == 0 || memcmp(a->bytes[i], b->bytes[i], a->counts[i]) == 0);
}

static bool exists(const char *path, const char *suffix)
{
	char *name = beside(path, suffix);
	bool found = access(name, F_OK) == 0;

	free(name);
	return found;
}

bool database_same(const char *path, const struct database *before)
{
	struct database now;
	bool same;

	database_read(path, &now);
	same = same_file(&now, before, 0) && same_file(&now, before, 1) && !exists(path, "-journal") &&
	       (before->bytes[1] || (!now.bytes[1] && !exists(path, "-shm")));
	database_free(&now);
	return same;
}

/* ---- SQL ---- */

static void execute(sqlite3 *db, const char *sql)
{
	sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static sqlite3 *open_plain(const char *path)
{
	sqlite3 *db = NULL;

	EXPECT(sqlite3_open(path, &db) == SQLITE_OK);
	return db;
}

void database_shrink(const char *path)
{
	sqlite3 *db = open_plain(path);

	EXPECT(sqlite3_exec(db,
	                    "PRAGMA journal_mode = DELETE; PRAGMA page_size = " PAGE_BYTES
	                    "; VACUUM; PRAGMA journal_mode = WAL",
	                    NULL, NULL, NULL) == SQLITE_OK);
	sqlite3_close(db);
}

/* The name in row which of what sql lists, or NULL. */
static char *nth_name(sqlite3 *db, const char *sql, unsigned which)
{
	sqlite3_stmt *statement = NULL;
	char *name = NULL;

	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK) {
		for (unsigned i = 0; sqlite3_step(statement) == SQLITE_ROW; i++)
			if (i == which)
				name = strdup((const char *)sqlite3_column_text(statement, 0));
	}
	sqlite3_finalize(statement);
	return name;
}

static char *input_table_name(sqlite3 *db, struct input *input)
{
	return nth_name(db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name", input_below(input, 8));
}

static char *input_column_name(sqlite3 *db, struct input *input, const char *table)
{
	char *sql = sqlite3_mprintf("SELECT name FROM pragma_table_info(%Q)", table);
	char *name = nth_name(db, sql, input_below(input, 16));

	sqlite3_free(sql);
	return name;
}

static void bind_input(sqlite3_stmt *statement, struct input *input)
{
	size_t bytes;
	char *text;

	switch (input_below(input, 6)) {
	case 0:
		sqlite3_bind_int64(statement, 1, (int64_t)input_number(input, 8));
		break;
	case 1:
		sqlite3_bind_int64(statement, 1, (int8_t)input_byte(input));
		break;
	case 2:
		sqlite3_bind_null(statement, 1);
		break;
	case 3:
		text = input_bytes(input, &bytes);
		sqlite3_bind_text(statement, 1, text, (int)bytes, SQLITE_TRANSIENT);
		free(text);
		break;
	default:
		text = input_bytes(input, &bytes);
		sqlite3_bind_blob(statement, 1, text, (int)bytes, SQLITE_TRANSIENT);
		free(text);
	}
}

/* Runs one statement of its own making, with a value from the input. */
static void run_with_value(sqlite3 *db, char *sql, struct input *input)
{
	sqlite3_stmt *statement = NULL;

	sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
	if (statement) {
		bind_input(statement, input);
		sqlite3_step(statement);
	}
	sqlite3_finalize(statement);
	sqlite3_free(sql);
}

static void run(sqlite3 *db, char *sql)
{
	execute(db, sql);
	sqlite3_free(sql);
}

static void add_trigger(sqlite3 *db, struct input *input, const char *table, const char *column)
{
	static const char *const events[] = {"INSERT", "UPDATE", "DELETE"};
	const char *event = events[input_below(input, 3)];
	char *action;

	switch (input_below(input, 4)) {
	case 0:
		action = sqlite3_mprintf("DELETE FROM %Q", table);
		break;
	case 1:
		action = sqlite3_mprintf("UPDATE %Q SET %Q = %Q + 1", table, column, column);
		break;
	case 2:
		action = sqlite3_mprintf("SELECT RAISE(ROLLBACK, 'no')");
		break;
	default:
		action = sqlite3_mprintf("SELECT RAISE(FAIL, 'no')");
	}
	run(db, sqlite3_mprintf("CREATE TRIGGER spoiler%d AFTER %s ON %Q BEGIN %s; END", input_byte(input), event,
	                        table, action));
	sqlite3_free(action);
}

static void edit_table(sqlite3 *db, struct input *input, unsigned how)
{
	char *table = input_table_name(db, input);
	char *column = table ? input_column_name(db, input, table) : NULL;

	if (column) {
		switch (how) {
		case 1:
			run_with_value(db,
			               sqlite3_mprintf("UPDATE %Q SET %Q = ?1 WHERE rowid = (SELECT rowid FROM %Q "
			                               "LIMIT 1 OFFSET %u)",
			                               table, column, table, input_below(input, 8)),
			               input);
			break;
		case 2:
			run_with_value(db, sqlite3_mprintf("UPDATE OR IGNORE %Q SET %Q = ?1", table, column), input);
			break;
		case 3:
			run_with_value(db, sqlite3_mprintf("DELETE FROM %Q WHERE %Q >= ?1", table, column), input);
			break;
		case 4:
			add_trigger(db, input, table, column);
			break;
		case 5:
			run(db, sqlite3_mprintf("ALTER TABLE %Q RENAME COLUMN %Q TO spoiled", table, column));
			break;
		case 6:
			run(db, sqlite3_mprintf("ALTER TABLE %Q ADD COLUMN spoiled INTEGER", table));
			break;
		default:
			run(db, sqlite3_mprintf("DROP TABLE %Q", table));
		}
	}
	free(column);
	free(table);
}

static void edit(sqlite3 *db, struct input *input, unsigned how)
{
	char *name;

	switch (how) {
	case 8:
		run(db, sqlite3_mprintf("PRAGMA user_version = %d", (int8_t)input_byte(input)));
		break;
	case 9:
		run(db, sqlite3_mprintf("PRAGMA application_id = %d", (int)input_number(input, 4)));
		break;
	case 10:
		name =
		    nth_name(db, "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL ORDER BY name",
		             input_below(input, 12));
		if (name)
			run(db, sqlite3_mprintf("DROP INDEX %Q", name));
		free(name);
		break;
	case 11:
		run(db, sqlite3_mprintf("PRAGMA writable_schema = ON"));
		run_with_value(
		    db, sqlite3_mprintf("UPDATE sqlite_schema SET sql = ?1 WHERE rowid = %u", input_below(input, 24)),
		    input);
		break;
	default:
		edit_table(db, input, how);
	}
}

static void edit_all(const char *path, struct input *input, bool keep_log)
{
	sqlite3 *db = open_plain(path);
	unsigned how;

	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_log, NULL);
	execute(db, "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF");
	for (int i = 0; i < EDITS_MAX && (how = input_below(input, 13)) > 0; i++)
		edit(db, input, how);
	sqlite3_close(db);
}

/* ---- bytes ---- */

static void patch(struct database *database, size_t which, size_t offset, const char *bytes, size_t count)
{
	if (offset >= database->counts[which])
		return;
	if (count > database->counts[which] - offset)
		count = database->counts[which] - offset;
	memcpy(database->bytes[which] + offset, bytes, count);
}

static void patch_all(const char *path, struct input *input)
{
	struct database database;
	size_t offset, count, which;
	unsigned how;
	char *bytes;

	database_read(path, &database);
	for (int i = 0; i < EDITS_MAX && (how = input_below(input, 6)) > 0; i++) {
		which = how > 3;
		offset = input_number(input, how == 1 ? 1 : 2); /* 1: the header */
		if (how == 3) {
			if (offset < database.counts[which])
				database.counts[which] = offset;
			continue;
		}
		bytes = input_bytes(input, &count);
		patch(&database, which, offset, bytes, count);
		free(bytes);
	}
	database_write(path, &database);
	database_free(&database);
}

void database_spoil(const char *path, struct input *input)
{
	bool keep_log = input_byte(input) & 1;

	edit_all(path, input, keep_log);
	patch_all(path, input);
}
