"""The loaders: small data sets in the layout of their owners, then the real label files."""

import tarfile
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from src import config, data
from src.data import adience, allagefaces, fairface, imdb_wiki, label_files, utkface
from src.data.table import BOX_COLUMNS, SPLITS, TABLE_COLUMNS, split, task_labels

REAL = config.ROOT.parent / "shared" / "data"


def real(name):
    """The real file or folder under shared/data; the test is skipped where it is not at hand."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real data set is not here: shared/data/{name} beside the repository")
    return path


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"picture")


def reasons(loaded):
    return dict(zip(loaded.ledger["path"], loaded.ledger["reason"], strict=True))


def years(loaded):
    return list(zip(loaded.table["age_low"], loaded.table["age_high"], strict=True))


# --- the front door ---------------------------------------------------------------------------------------------------


def test_a_folder_for_the_sample_is_refused(tmp_path):
    with pytest.raises(ValueError, match="DATASET=utkface"):
        data.resolve_folder("sample", tmp_path)


def test_unknown_name_names_the_allowed_ones(tmp_path):
    with pytest.raises(ValueError, match="one of sample, adience, imdb_wiki, utkface, fairface, allagefaces, got 'celeba'"):
        data.load("celeba", tmp_path)


@pytest.mark.parametrize("name", data.DATASETS)
@pytest.mark.parametrize("state", ["missing", "empty", "other files"])
def test_bad_folders_are_refused_in_one_sentence(tmp_path, name, state):
    folder = tmp_path / "set"
    if state != "missing":
        folder.mkdir()
    if state == "other files":
        (folder / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, folder)
    message = str(caught.value)
    assert str(folder) in message and "expected" in message and "data/README.md" in message and "\n" not in message


def test_training_takes_the_table_that_was_cleaned_for_the_same_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imdb_wiki, "CLEANED", tmp_path / "runs")
    folder = make_mat(
        tmp_path / "imdb_crop", "imdb", [face(name="Nan"), face(full_path="02/2.jpg", name="None"), face(dob=np.nan)]
    )
    for path in (FACE["full_path"], "02/2.jpg"):
        touch(folder / path)
    loaded = data.load("imdb_wiki", folder)
    assert len(data.load_for_training("imdb_wiki", folder).table) == 2 and not capsys.readouterr().out
    cleaned = loaded._replace(table=loaded.table[:1].assign(age_doubt=0.25, suspect=False))
    table, ledger = imdb_wiki.save_cleaned(cleaned, folder)
    assert pd.read_csv(table)["age_doubt"].tolist() == [0.25]
    taken = data.load_for_training("imdb_wiki", folder)
    assert "1 faces kept, 1 rows dropped" in capsys.readouterr().out
    pd.testing.assert_frame_equal(taken.table, loaded.table[:1])
    pd.testing.assert_frame_equal(taken.ledger, loaded.ledger)
    assert taken.table["subject"].tolist() == ["nan"], "a name is not a missing value"
    assert len(data.load_for_training("imdb_wiki", folder, min_score=0.5).table) == 2
    assert imdb_wiki.read_cleaned(tmp_path / "elsewhere") is None


# --- for every data set: pictures in a store elsewhere, tables without faces ------------------------------------------


def make_any(folder, name):
    """A small data set of two pictures in the layout of its owners."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("sample", "adience"):
        return make_adience(folder, [row for row in ADIENCE if row[3] in ("b.jpg", "c.jpg")])
    if name == "imdb_wiki":
        records = [face(full_path=f"01/{i}.jpg", name=f"person {i}") for i in range(2)]
        make_mat(folder / "imdb_crop", "imdb", records)
        paths = [f"imdb_crop/{record['full_path']}" for record in records]
    elif name == "fairface":
        make_fairface(folder, ["train/1.jpg,0-2,Male", "train/2.jpg,3-9,Female"])
        paths = ["train/1.jpg", "train/2.jpg"]
    elif name == "utkface":
        paths = ["UTKFace/26_0_2_2017.jpg.chip.jpg", "UTKFace/1_1_2_2018.jpg.chip.jpg"]
    else:
        paths = ["original images/00001A02.jpg", "original images/13000A70.jpg"]
    for path in paths:
        touch(folder / path)
    return folder


PICTURES = (".jpg", ".webp")


@pytest.mark.parametrize("name", data.DATASETS)
@pytest.mark.parametrize("linked", ["pictures", "folders", "the whole"])
def test_pictures_in_a_store_elsewhere_are_read(tmp_path, name, linked):
    """Stores of other tools name their files and folders by checksums; the data folder has links with the real names."""
    folder, store = make_any(tmp_path / "set", name), tmp_path / "store"
    expected = data.load(name, folder)
    store.mkdir()
    if linked == "the whole":
        folder.rename(store / "0a1b")
        folder.symlink_to(store / "0a1b")
    elif linked == "folders":
        for i, inner in enumerate(path for path in sorted(folder.iterdir()) if path.is_dir()):
            inner.rename(store / f"{i}.dir")
            inner.symlink_to(store / f"{i}.dir")
    else:
        for i, picture in enumerate(sorted(path for path in folder.rglob("*") if path.suffix in PICTURES)):
            picture.rename(store / str(i))
            picture.symlink_to(store / str(i))
    found = data.load(name, folder)
    assert len(found.table) == 2
    pd.testing.assert_frame_equal(found.table, expected.table)
    pd.testing.assert_frame_equal(found.ledger, expected.ledger)


@pytest.mark.parametrize("name", ["utkface", "allagefaces"])
def test_linked_folders_are_read_once_and_circles_end(tmp_path, name):
    folder = make_any(tmp_path / "set", name)
    inner = next(path for path in folder.iterdir() if path.is_dir())
    (inner / "again").symlink_to(inner)
    (inner / "above").symlink_to(tmp_path)
    (folder / "a_link").symlink_to(inner)
    loaded = data.load(name, folder)
    assert len(loaded.table) == 2 and loaded.ledger.empty


@pytest.mark.parametrize("name", data.DATASETS)
def test_all_pictures_are_links_that_lead_nowhere(tmp_path, name):
    folder = make_any(tmp_path / "set", name)
    for picture in [path for path in folder.rglob("*") if path.suffix in PICTURES]:
        picture.unlink()
        picture.symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="none of the 2 images") as caught:
        data.load(name, folder)
    assert "\n" not in str(caught.value)


def make_useless(folder, name):
    """A data set with pictures and labels of which not one row can be used; gives the number of rows."""
    folder = make_any(folder, name)
    if name in ("sample", "adience"):
        make_adience(folder, [(0, "1@N01", "2", "b.jpg", "None", "")])
        return 1
    if name == "imdb_wiki":
        make_mat(folder / "imdb_crop", "imdb", [face(full_path="/etc/1.jpg"), face(face_score=-np.inf), face(dob=np.nan)])
        touch(folder / "imdb_crop" / FACE["full_path"])
        return 3
    if name == "fairface":
        make_fairface(
            folder, ["/data/train/1.jpg,0-2,Male", "C:\\train\\2.jpg,3-9,Female", ",old,Male", "train/1.jpg,?,Male"]
        )
        return 4
    for i, picture in enumerate([path for path in folder.rglob("*") if path.suffix in PICTURES]):
        picture.rename(picture.with_name(f"picture {i}.jpg"))
    return 2


LOAD = {
    "adience": adience.load,
    "imdb_wiki": imdb_wiki.load,
    "utkface": utkface.load,
    "fairface": fairface.load,
    "allagefaces": allagefaces.load,
}


@pytest.mark.parametrize("name", LOAD)
def test_no_usable_row_gives_an_empty_table_and_a_full_ledger(tmp_path, name):
    read = make_useless(tmp_path, name)
    loaded = LOAD[name](tmp_path)
    assert len(loaded.table) == 0 and len(loaded.ledger) == read
    assert {column: str(dtype) for column, dtype in loaded.table.dtypes.items()} == TABLE_COLUMNS
    assert list(loaded.ledger.columns) == ["path", "reason"] and loaded.ledger.notna().all(axis=None)
    for test_fold in (None, 0):
        with pytest.raises(ValueError, match="the table of faces is empty"):
            split(loaded.table, test_fold)
    assert task_labels(loaded.table, "gender").table.empty
    assert task_labels(loaded.table, "age", config.AGE_GROUPS["adience"]).table.empty


@pytest.mark.parametrize("name", data.DATASETS)
def test_no_usable_row_is_one_sentence_with_the_reasons(tmp_path, name):
    make_useless(tmp_path, name)
    with pytest.raises(ValueError, match="expected at least one usable face") as caught:
        data.load(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and any(character.isdigit() for character in message.split("(")[1])
    assert "\n" not in message


@pytest.mark.parametrize("name", ["adience", "sample", "imdb_wiki", "fairface"])
@pytest.mark.parametrize("content", ["nothing", "header"])
def test_label_files_without_rows(tmp_path, name, content):
    folder = make_any(tmp_path, name)
    files = [path for path in folder.rglob("*") if path.suffix in (".txt", ".csv", ".mat")]
    for file in files:
        if content == "nothing":
            file.write_bytes(b"")
        elif file.suffix == ".mat":
            make_mat(file.parent, "imdb", [])
        else:
            file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="expected (a table|a Matlab struct|at least one)") as caught:
        data.load(name, folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


# --- Adience ----------------------------------------------------------------------------------------------------------

HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score"
BOX_TEXT = "\t0\t414\t1086\t1383\t-115\t30\t17"


def make_adience(folder, rows, kind="faces"):
    """rows: (fold, user, face, image, age, gender), one picture each unless the image is called gone.jpg."""
    prefixes = {"faces": "coarse_tilt_aligned_face", "aligned": "landmark_aligned_face"}
    lines = {fold: [HEADER] for fold in range(5)}
    for fold, user, face, image, age, gender in rows:
        lines[fold].append("\t".join((user, image, face, age, gender)) + BOX_TEXT)
        if image != "gone.jpg":
            touch(folder / kind / user / f"{prefixes[kind]}.{face}.{image}")
    for fold, text in lines.items():
        (folder / f"fold_{fold}_data.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


ADIENCE = [
    (0, "1@N01", "1", "a.jpg", "(25, 32)", "f"),
    (0, "1@N01", "1", "a.jpg", "(25, 32)", "f"),  # repeated
    (0, "1@N01", "2", "b.jpg", "35", "m"),
    (1, "2@N01", "3", "c.jpg", "(0, 2)", "u"),
    (2, "3@N01", "4", "d.jpg", "None", ""),  # nothing known
    (3, "4@N01", "5", "gone.jpg", "(4, 6)", "f"),
    (3, "4@N01", "5", "e.jpg", "(999, é", "m"),  # never seen
    (4, "5@N01", "6", "f.jpg", "(25, 23)", "u"),
]


def test_adience_rows_labels_and_reasons(tmp_path):
    loaded = adience.load(make_adience(tmp_path, ADIENCE))
    assert len(loaded.table) + len(loaded.ledger) == len(ADIENCE)
    assert reasons(loaded) == {
        "faces/1@N01/coarse_tilt_aligned_face.1.a.jpg": "repeated row",
        "faces/3@N01/coarse_tilt_aligned_face.4.d.jpg": "no usable label",
        "faces/4@N01/coarse_tilt_aligned_face.5.gone.jpg": "image missing",
        "faces/5@N01/coarse_tilt_aligned_face.6.f.jpg": "no usable label",
    }
    assert list(loaded.table["subject"]) == ["1", "2", "3", "5"]
    assert loaded.table["gender"].fillna("?").tolist() == ["female", "male", "?", "male"]
    assert years(loaded) == [(25, 32), (pd.NA, pd.NA), (0, 2), (pd.NA, pd.NA)]
    assert loaded.table["fold"].tolist() == [0, 0, 1, 3]
    assert loaded.table[BOX_COLUMNS].isna().all(axis=None)
    assert (tmp_path / loaded.table["path"][0]).is_file()


def test_adience_mapped_labels(tmp_path):
    loaded = adience.load(make_adience(tmp_path, ADIENCE), labels="mapped")
    assert years(loaded) == [(25, 32), (25, 32), (0, 2), (pd.NA, pd.NA), (25, 32)]


def test_every_mapped_label_falls_in_the_class_that_closes_the_gaps():
    groups = config.AGE_GROUPS["adience"]
    for text, (low, high) in adience.MAPPED.items():
        if text.isdigit():
            assert groups.index([int(text)], [int(text)]) == groups.index([low], [high]), text


def test_adience_aligned_pictures_and_parent_folder(tmp_path):
    folder = tmp_path / "adience"
    folder.mkdir()
    make_adience(folder, ADIENCE, kind="aligned")
    loaded = adience.load(tmp_path, images="aligned")
    assert loaded.table["path"][0] == "adience/aligned/1@N01/landmark_aligned_face.1.a.jpg"
    assert (tmp_path / loaded.table["path"][0]).is_file()


def test_adience_without_its_pictures(tmp_path):
    make_adience(tmp_path, ADIENCE, kind="aligned")
    with pytest.raises(FileNotFoundError, match="none of the 8 images"):
        adience.load(tmp_path, images="faces")
    assert len(adience.load(tmp_path, images="faces", check_images=False).table) == 5


@pytest.mark.parametrize("option", [{"images": "Faces"}, {"labels": "loose"}])
def test_adience_options_are_checked(tmp_path, option):
    with pytest.raises(ValueError, match="must be one of"):
        adience.load(make_adience(tmp_path, ADIENCE), **option)


def test_adience_missing_columns(tmp_path):
    make_adience(tmp_path, ADIENCE)
    (tmp_path / "fold_2_data.txt").write_text("user_id\toriginal_image\tface_id\nx\ty\tz\n")
    with pytest.raises(ValueError, match="fold_2_data.txt: expected a table with the columns user_id, .*not found"):
        adience.load(tmp_path)


def test_adience_missing_fold_file(tmp_path):
    make_adience(tmp_path, ADIENCE)
    (tmp_path / "fold_3_data.txt").unlink()
    with pytest.raises(FileNotFoundError, match="lacks fold_3_data.txt"):
        adience.load(tmp_path)


def test_sample_is_read_as_adience_under_its_own_name(tmp_path):
    make_adience(tmp_path, ADIENCE)
    assert set(data.load("sample", tmp_path).table["dataset"]) == {"sample"}


# --- IMDB-WIKI --------------------------------------------------------------------------------------------------------

FACE = {
    "dob": date(1980, 5, 5).toordinal() + 366,
    "photo_taken": 2010,
    "full_path": "01/100_1980-05-05_2010.jpg",
    "gender": 1.0,
    "name": "Some One",
    "face_location": [11.0, 21.0, 110.0, 120.0],
    "face_score": 3.5,
    "second_face_score": np.nan,
}


def face(**changes):
    return FACE | changes


def cells(values):
    """A Matlab cell array of the values, as loadmat gives it: (1, n), object."""
    array = np.empty((1, len(values)), object)
    array[0, :] = [np.array(value, ndmin=2) if isinstance(value, list) else value for value in values]
    return array


def fields_of(part, records):
    column = {name: [record[name] for record in records] for name in FACE}
    fields = {
        "dob": np.array([column["dob"]]),
        "photo_taken": np.array([column["photo_taken"]], np.uint16),
        "full_path": cells(column["full_path"]),
        "gender": np.array([column["gender"]], float),
        "name": cells(column["name"]),
        "face_location": cells(column["face_location"]),
        "face_score": np.array([column["face_score"]], float),
        "second_face_score": np.array([column["second_face_score"]], float),
    }
    if part == "imdb":
        names = list(dict.fromkeys(column["name"]))
        fields["celeb_names"] = cells(names)
        fields["celeb_id"] = np.array([[names.index(name) + 1.0 for name in column["name"]]])
    return fields


def make_mat(folder, part, records):
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / f"{part}.mat", {part: fields_of(part, records)}, do_compression=True)
    return folder


def ages_of(tmp_path, *records):
    table = imdb_wiki.load(make_mat(tmp_path, "wiki", list(records)), check_images=False, min_score=0).table
    return list(zip(table["age_low"], table["age_high"], strict=True))


def born(year, month, day, taken=2010):
    text = f"01/7_{year}-{month:02d}-{day:02d}_{taken}.jpg"
    return face(dob=date(year, month, day).toordinal() + 366, photo_taken=taken, full_path=text)


def test_imdb_wiki_age_is_that_of_the_first_of_july(tmp_path):
    found = ages_of(tmp_path, born(1980, 6, 30), born(1980, 7, 1), born(1980, 7, 2), born(1980, 1, 1), born(2010, 3, 1))
    assert found == [(30, 30), (30, 30), (29, 29), (30, 30), (0, 0)]


def test_imdb_wiki_day_or_month_unknown(tmp_path):
    """Matlab made the last day of the month before out of a day 00: 1980-07-00 became 30 June."""
    month_before = date(1980, 6, 30).toordinal() + 366
    year_before = date(1979, 12, 31).toordinal() + 366
    found = ages_of(
        tmp_path,
        face(dob=month_before, full_path="01/7_1980-07-00_2010.jpg"),  # July: could be either
        face(dob=date(1980, 9, 30).toordinal() + 366, full_path="01/7_1980-10-00_2010.jpg"),
        face(dob=date(1980, 3, 31).toordinal() + 366, full_path="01/7_1980-04-00_2010.jpg"),
        face(dob=year_before, full_path="01/nm7_rm8_1980-0-0_2010.jpg"),
        face(dob=4, full_path="01/nm7_rm8_1980-00-12_2010.jpg"),
    )
    assert found == [(29, 30), (29, 29), (30, 30), (29, 30), (29, 30)]


def test_imdb_wiki_impossible_dates(tmp_path):
    records = [
        face(),
        face(dob=np.nan, full_path="a.jpg"),
        face(dob=np.inf, full_path="b.jpg"),
        face(dob=47.25, full_path="c.jpg"),
        face(dob=1e300, full_path="d.jpg"),
        face(photo_taken=0, full_path="e.jpg"),
        face(dob=725069, photo_taken=2014, full_path="31/38204331_1984-15-03_2014.jpg"),
        face(dob=4, full_path="f/1_0-0-0_2010.jpg"),
    ]
    loaded = imdb_wiki.load(make_mat(tmp_path, "wiki", records), check_images=False)
    assert set(loaded.ledger["reason"]) == {"impossible date"} and len(loaded.ledger) == 7


def test_imdb_wiki_fractional_dates_and_names_without_the_pattern(tmp_path):
    found = ages_of(
        tmp_path,
        face(dob=FACE["dob"] + 0.75),
        face(full_path="45/32339345_1980-05-05._2015.jpg"),
        face(full_path="63/670663_1980-05-05UTC08:04_1941.jpg"),
        face(full_path="31/2527231_1980-05-005_1954.jpg"),
        face(full_path="picture.jpg"),
    )
    assert found == [(30, 30)] * 5


def test_imdb_wiki_reasons_in_order_and_the_funnel(tmp_path):
    records = [
        face(),
        face(full_path="n/1.jpg", face_score=-np.inf, second_face_score=2.0),
        face(full_path="n/2.jpg", face_score=np.nan),
        face(full_path="s/1.jpg", second_face_score=1.2, face_score=0.5),
        face(full_path="l/1.jpg", face_score=0.99),
        face(full_path="o/1.jpg", photo_taken=2100),
        face(full_path="y/1.jpg", photo_taken=1950),
        face(full_path="../1.jpg"),
        face(full_path="a/../../1.jpg"),
        face(full_path="/etc/passwd"),
        face(full_path="C:\\pictures\\1.jpg"),
        face(full_path="..\\1.jpg"),
        face(full_path=""),
    ]
    folder = make_mat(tmp_path, "wiki", records)
    loaded = imdb_wiki.load(folder, check_images=False)
    assert len(loaded.table) == 1 and len(loaded.table) + len(loaded.ledger) == len(records)
    assert loaded.ledger["reason"].value_counts().to_dict() == {
        "path outside the folder": 6,
        "no face": 2,
        "second face": 1,
        "low score": 1,
        "age out of range": 2,
    }
    funnel = imdb_wiki.count_dropped(folder).set_index("reason")
    assert funnel["left"].iloc[-1] == len(loaded.table) and funnel["dropped"].sum() == len(loaded.ledger)
    assert funnel.loc["second face", ["records", "dropped"]].tolist() == [2, 1]
    assert funnel.loc["low score", ["records", "dropped"]].tolist() == [2, 1]
    wide = imdb_wiki.load(folder, check_images=False, max_age=150, min_score=0)
    assert len(wide.table) == 3


def test_imdb_wiki_gender_is_never_guessed(tmp_path):
    records = [face(gender=value, full_path=f"{i}.jpg") for i, value in enumerate([0.0, 1.0, np.nan, 2.0])]
    table = imdb_wiki.load(make_mat(tmp_path, "wiki", records), check_images=False).table
    assert table["gender"].fillna("?").tolist() == ["female", "male", "?", "?"]
    assert task_labels(table, "gender").table["label"].tolist() == [0, 1]
    assert len(task_labels(table, "age", config.AGE_GROUPS["adience"]).table) == 4


def test_imdb_wiki_subjects(tmp_path):
    imdb = [face(name="José  SMITH "), face(name="", full_path="0/nm5_rm1_1980-5-5_2010.jpg")]
    make_mat(tmp_path / "imdb", "imdb", imdb)
    odd = "A\x00\ufffd\u202e"
    wiki = [face(name="Jose\u0301 Smith"), face(name="", full_path="0/77_x.jpg"), face(name="", full_path="1/77_y.jpg")]
    make_mat(tmp_path / "wiki", "wiki", [*wiki, face(name=odd, full_path="1/78.jpg")])
    loaded = imdb_wiki.load(tmp_path, check_images=False)
    subject = loaded.table["subject"].tolist()
    assert subject[:5] == ["josé smith", "imdb:nm5", "josé smith", "wiki:77", "wiki:77"]
    assert loaded.table["path"][0].startswith("imdb/01/") and loaded.table["path"][2].startswith("wiki/01/")


def test_imdb_wiki_names_of_one_celeb_id_are_one_subject(tmp_path):
    names = ["Old Name", "New Name", "Other"]
    fields = fields_of("imdb", [face(name=name, full_path=f"0/{i}.jpg") for i, name in enumerate(names)])
    fields["celeb_id"] = np.array([[7.0, 7.0, 8.0]])
    savemat(tmp_path / "imdb.mat", {"imdb": fields})
    subject = imdb_wiki.load(tmp_path, check_images=False).table["subject"]
    assert subject[0] == subject[1] != subject[2]


def test_imdb_wiki_two_records_for_one_file(tmp_path):
    records = [face(face_score=-np.inf), face(name="First"), face(name="Second"), face(full_path="1/other.jpg")]
    loaded = imdb_wiki.load(make_mat(tmp_path, "wiki", records), check_images=False)
    assert loaded.ledger["reason"].tolist() == ["no face", "duplicate image"]
    assert loaded.table["subject"].tolist() == ["first", FACE["name"].casefold()]


def test_imdb_wiki_gender_may_be_asked_for(tmp_path):
    folder = make_mat(tmp_path, "wiki", [face(), face(gender=np.nan, full_path="1/2.jpg")])
    assert imdb_wiki.load(folder, check_images=False, known_gender=True).ledger["reason"].tolist() == ["gender unknown"]
    assert imdb_wiki.count_dropped(folder, known_gender=True).set_index("reason").loc["gender unknown", "dropped"] == 1


def test_imdb_wiki_boxes(tmp_path):
    records = [
        face(),
        face(face_location=[0.048, 0.132, 10.5, 12.0], full_path="1.jpg"),
        face(face_location=[50.0, 50.0, 10.0, 10.0], full_path="2.jpg"),
        face(face_location=[1.0, 2.0], full_path="3.jpg"),
    ]
    boxes = (
        imdb_wiki.load(make_mat(tmp_path, "wiki", records), check_images=False).table[BOX_COLUMNS].astype(float).to_numpy()
    )
    np.testing.assert_array_equal(boxes[:2], [[10, 20, 110, 120], [0, 0, 10.5, 12]])
    assert np.isnan(boxes[2:]).all()


def test_imdb_wiki_crops_have_no_box(tmp_path):
    make_mat(tmp_path / "imdb_crop", "imdb", [face()])
    touch(tmp_path / "imdb_crop" / FACE["full_path"])
    make_mat(tmp_path / "wiki", "wiki", [face(), face(full_path="01/gone.jpg")])
    touch(tmp_path / "wiki" / FACE["full_path"])
    loaded = imdb_wiki.load(tmp_path)
    assert loaded.table["left"].isna().tolist() == [True, False]
    assert reasons(loaded) == {"wiki/01/gone.jpg": "image missing"}
    assert all((tmp_path / path).is_file() for path in loaded.table["path"])
    assert imdb_wiki.load(tmp_path / "imdb_crop").table["left"].isna().all()


@pytest.mark.parametrize(
    "meta, crops, given",
    [
        ("", "imdb_crop", ""),  # above its crops
        ("imdb", "imdb_crop", ""),
        ("imdb_meta", "imdb_crop", ""),
        ("metadata", "imdb_crop", ""),
        ("imdb_crop", "imdb_crop", "imdb_crop"),
    ],
)
def test_imdb_wiki_metadata_elsewhere_than_the_crops(tmp_path, meta, crops, given):
    make_mat(tmp_path / meta, "imdb", [face(), face(full_path="02/2.jpg")])
    for name in (FACE["full_path"], "02/2.jpg"):
        touch(tmp_path / crops / name)
    folder = tmp_path / given
    loaded = imdb_wiki.load(folder)
    assert all((folder / path).is_file() for path in loaded.table["path"]) and len(loaded.table) == 2
    assert loaded.table[BOX_COLUMNS].isna().all(axis=None)
    unchecked = imdb_wiki.load(folder, check_images=False)
    pd.testing.assert_frame_equal(unchecked.table, loaded.table)


def test_imdb_wiki_both_parts_with_their_metadata_above_the_crops(tmp_path):
    for part, path in (("imdb", "01/1.jpg"), ("wiki", "01/2.jpg")):
        make_mat(tmp_path, part, [face(full_path=path, name=part)])
        touch(tmp_path / f"{part}_crop" / path)
    assert imdb_wiki.load(tmp_path).table["path"].tolist() == ["imdb_crop/01/1.jpg", "wiki_crop/01/2.jpg"]


def test_imdb_wiki_pictures_beside_the_metadata_come_before_crops(tmp_path):
    make_mat(tmp_path, "wiki", [face()])
    for folder in (tmp_path, tmp_path / "wiki_crop"):
        touch(folder / FACE["full_path"])
    loaded = imdb_wiki.load(tmp_path)
    assert loaded.table["path"].tolist() == [FACE["full_path"]] and loaded.table[BOX_COLUMNS].notna().all(axis=None)


def test_imdb_wiki_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match="must"):
        imdb_wiki.load(make_mat(tmp_path, "wiki", [face()]), check_images=False, min_age=50, max_age=9)


@pytest.mark.parametrize(
    "content",
    [
        {"imdb": fields_of("imdb", [FACE])},
        {"wiki": np.arange(4)},
        {"wiki": {k: v for k, v in fields_of("wiki", [FACE]).items() if k != "dob"}},
        {"wiki": fields_of("wiki", [FACE]) | {"gender": np.ones((1, 3))}},
        {"wiki": fields_of("wiki", [FACE]) | {"dob": cells(["x"])}},
    ],
)
def test_imdb_wiki_file_of_another_form(tmp_path, content):
    savemat(tmp_path / "wiki.mat", content)
    with pytest.raises(ValueError, match="wiki.mat: expected a Matlab struct wiki with the fields dob"):
        imdb_wiki.load(tmp_path, check_images=False)


# --- UTKFace ----------------------------------------------------------------------------------------------------------

UTK = {
    "26_0_2_20170116184028385.jpg.chip.jpg": (26, "male"),
    "1_1_0_20170116184028386.jpg": (1, "female"),
    "116_1_3_20170116184028387.webp": (116, "female"),
    "80_0_4_20170116184028388.PNG": (80, "male"),
    "24_0_1_20170116220224657 .jpg.chip.jpg": (24, "male"),
    "39_1_20170116174525125.jpg.chip.jpg": "malformed name",
    "53__0_20170116184028385.jpg": "malformed name",
    "portrait.jpg": "malformed name",
    "130_1_0_20170116184028389.jpg": "age out of range",
    "99999999999999999999_1_0_20170116184028389.jpg": "age out of range",
    "30_3_0_20170116184028390.jpg": "gender not 0 or 1",
}


def test_utkface_names(tmp_path):
    for i, name in enumerate(UTK):
        touch(tmp_path / f"part{i % 2}" / name)
    for leftover in ("._26_0_2_2017.jpg", "part0/.1_0_2_2017.jpg", "__MACOSX/1_1_0_2017.jpg", ".x/1_1_0_2017.jpg"):
        touch(tmp_path / leftover)
    (tmp_path / "readme.txt").write_text("x")
    loaded = utkface.load(tmp_path)
    assert len(loaded.table) + len(loaded.ledger) == len(UTK)
    assert {path.split("/")[1]: reason for path, reason in reasons(loaded).items()} == {
        name: told for name, told in UTK.items() if isinstance(told, str)
    }
    for row in loaded.table.itertuples():
        assert (row.age_low, row.gender) == UTK[row.path.split("/")[1]] and row.age_high == row.age_low
    assert loaded.table["path"].is_monotonic_increasing
    assert loaded.table[["subject", "fold", *BOX_COLUMNS]].isna().all(axis=None)


def test_utkface_file_names_that_lack_a_dot_or_a_letter(tmp_path):
    stem = "55_0_0_20170116232725357"
    ends = ["jpg.chip.jpg", ".jpgchip.jpg", "jpgchip.jpg", ".pg.chip.jpg", "chip.jpg", ".chip.jpg", ".JPG.CHIP.JPG", ".jpeg"]
    for i, end in enumerate(ends):
        touch(tmp_path / f"part{i % 3 + 1}" / f"{stem}{i}{end}")
    loaded = utkface.load(tmp_path)
    assert len(loaded.table) == len(ends) and loaded.ledger.empty
    assert set(loaded.table["age_low"]) == {55} and set(loaded.table["gender"]) == {"male"}


def test_utkface_a_broken_link_does_not_hide_a_good_file_of_its_name(tmp_path):
    name = "20_1_0_20170117.jpg"
    for folder in "ab":
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / name).symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "b" / name).touch()
    table, ledger = data.load("utkface", tmp_path)
    assert table["path"].tolist() == [f"b/{name}"] and ledger["reason"].tolist() == ["image missing"]


def test_utkface_prefers_its_own_folder(tmp_path):
    touch(tmp_path / "FairFace" / "train" / "1.jpg")
    touch(tmp_path / "UTKFace" / "26_0_2_20170116184028385.jpg")
    assert utkface.load(tmp_path).table["path"].tolist() == ["UTKFace/26_0_2_20170116184028385.jpg"]
    assert utkface.load(tmp_path / "UTKFace").table["path"].tolist() == ["26_0_2_20170116184028385.jpg"]


# --- FairFace ---------------------------------------------------------------------------------------------------------


def make_fairface(folder, rows, part="train", header="file,age,gender,race,service_test"):
    folder.mkdir(exist_ok=True)
    lines = [header, *(f"{row},East Asian,True" for row in rows)]
    (folder / f"fairface_label_{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_fairface_labels_and_reasons(tmp_path):
    rows = ["train/1.jpg,0-2,Male", "train/2.jpg,more than 70,Female", "train/3.jpg,60-69,Other"]
    rows += ["train/4.jpg,old,Male", "train/5.jpg,3-9,Male", "../6.jpg,3-9,Male"]
    make_fairface(tmp_path, rows)
    make_fairface(tmp_path, ["val/1.jpg,20-29,Female"], part="val")
    for name in ("train/1.jpg", "train/2.webp", "train/3.png", "train/4.jpg", "val/1.jpg"):
        touch(tmp_path / name)
    loaded = fairface.load(tmp_path)
    assert len(loaded.table) + len(loaded.ledger) == 7
    assert loaded.table["path"].tolist() == ["train/1.jpg", "train/2.webp", "train/3.png", "val/1.jpg"]
    assert years(loaded) == [(0, 2), (70, 100), (60, 69), (20, 29)]
    assert loaded.table["gender"].fillna("?").tolist() == ["male", "female", "?", "female"]
    assert reasons(loaded) == {
        "train/4.jpg": "unknown age",
        "train/5.jpg": "image missing",
        "../6.jpg": "path outside the folder",
    }
    assert (task_labels(loaded.table, "age", config.AGE_GROUPS["fairface"]).table["label"] == [0, 8, 7, 3]).all()


def test_fairface_suffix_in_either_direction_and_parent_folder(tmp_path):
    make_fairface(tmp_path / "FairFace", ["train/1.webp,0-2,Male"])
    touch(tmp_path / "FairFace" / "train" / "1.jpg")
    assert fairface.load(tmp_path).table["path"].tolist() == ["FairFace/train/1.jpg"]


def test_fairface_labels_in_other_cases_and_paths_with_back_slashes(tmp_path):
    rows = [
        "train\\1.jpg,MORE THAN 70,male",
        " train\\2.jpg ,3-9, FEMALE ",
        "..\\3.jpg,3-9,Male",
        "\\\\server\\4.jpg,3-9,Male",
    ]
    make_fairface(tmp_path, rows)
    for name in ("1.jpg", "2.webp"):
        touch(tmp_path / "train" / name)
    loaded = fairface.load(tmp_path)
    assert loaded.table["path"].tolist() == ["train/1.jpg", "train/2.webp"]
    assert loaded.table["gender"].tolist() == ["male", "female"] and years(loaded) == [(70, 100), (3, 9)]
    assert set(loaded.ledger["reason"]) == {"path outside the folder"} and len(loaded.ledger) == 2
    assert fairface.races(tmp_path, loaded.table["path"]).tolist() == ["East Asian"] * 2


def test_fairface_bad_label_files(tmp_path):
    make_fairface(tmp_path, ["train/1.jpg,0-2"], header="file,years,race,service_test")
    with pytest.raises(ValueError, match="fairface_label_train.csv: expected a table with the columns file, age, gender"):
        fairface.load(tmp_path)
    make_fairface(tmp_path, ["train/1.jpg,0-2,Male"])
    touch(tmp_path / "train/2.jpg")
    with pytest.raises(FileNotFoundError, match="none of the 1 images"):
        fairface.load(tmp_path)


def test_fairface_races(tmp_path):
    folder = make_fairface(tmp_path / "FairFace", ["train/1.jpg,0-2,Male", "train/2.jpg,3-9,Female"])
    lines = [
        "file,race,age,gender",
        "val/1.jpg,Latino_Hispanic,0-2,Male",
        " val/2.jpg, Black ,0-2,Male",
        "val/3.jpg,,0-2,Male",
    ]
    (folder / "fairface_label_val.csv").write_text("\n".join(lines) + "\n")
    inside = pd.Series(["val/1.jpg", "train/2.webp", "train/1.jpg", "val/2.png", "val/3.jpg", "train/9.jpg"], dtype="string")
    expected = ["Latino_Hispanic", "East Asian", "East Asian", "Black", None, None]
    found = fairface.races(tmp_path, "FairFace/" + inside)
    assert found.dtype == object and found.tolist() == expected
    assert fairface.races(folder, inside).tolist() == expected
    assert fairface.races(folder, inside[:0]).shape == (0,)
    with pytest.raises(FileNotFoundError, match="expected fairface_label_train.csv beside"):
        fairface.races(folder.parent / "elsewhere", inside)
    make_fairface(folder, ["train/1.jpg,0-2,Male,1,2"], header="file,age,gender,x,y,origin,service_test")
    with pytest.raises(ValueError, match="fairface_label_train.csv: expected a table with the columns file, race"):
        fairface.races(folder, inside)


# --- All-Age-Faces ----------------------------------------------------------------------------------------------------

AAF = {
    "00000A02.jpg": (2, "female"),
    "07380A75.JPG": (75, "female"),
    "07381A03.webp": (3, "male"),
    "13321A80.png": (80, "male"),
    "1234A20.jpg": None,
    "00001B20.jpg": None,
    "00001A100.jpg": None,
    "00001A2x.jpg": None,
    "٠٠٠٠١A20.jpg": None,
}


@pytest.mark.parametrize("inner", ["", "original images", "AllAgeFaces", "All-Age-Faces Dataset/original images"])
def test_allagefaces_names(tmp_path, inner):
    for name in AAF:
        touch(tmp_path / inner / name)
    (tmp_path / inner / "notes.txt").write_text("x")
    loaded = allagefaces.load(tmp_path)
    before = f"{inner}/" if inner else ""
    assert reasons(loaded) == {before + name: "malformed name" for name, told in AAF.items() if told is None}
    assert loaded.table["path"].tolist() == [before + name for name, told in AAF.items() if told]
    for row in loaded.table.itertuples():
        assert (row.age_low, row.gender) == AAF[row.path.removeprefix(before)] and row.age_high == row.age_low
    assert loaded.table[["subject", "fold", *BOX_COLUMNS]].isna().all(axis=None)
    assert set(loaded.table["dataset"]) == {"allagefaces"}


def test_allagefaces_reads_each_face_once(tmp_path):
    """The owners' aligned copies are left aside where the originals are there, and read where they are not."""
    for inner in ("original images", "aglined faces", "example"):
        touch(tmp_path / inner / "00001A02.jpg")
    loaded = allagefaces.load(tmp_path)
    assert loaded.table["path"].tolist() == ["original images/00001A02.jpg"] and loaded.ledger.empty
    (tmp_path / "original images/00001A02.jpg").unlink()
    (tmp_path / "original images").rmdir()
    loaded = allagefaces.load(tmp_path)
    assert loaded.table["path"].tolist() == ["aglined faces/00001A02.jpg"]
    assert reasons(loaded) == {"example/00001A02.jpg": "repeated image"}


# --- the real files ---------------------------------------------------------------------------------------------------

ADIENCE_COUNTS = {
    "(0, 2)": 2519,
    "(4, 6)": 2163,
    "(8, 12)": 2132,
    "(15, 20)": 1655,
    "(25, 32)": 4950,
    "(38, 43)": 2300,
    "(48, 53)": 830,
    "(60, 100)": 875,
}


def test_real_adience_fold_files():
    folder = real("adience/fold_0_data.txt").parent
    folds = [label_files.read_labels(folder / name, "\t", adience.FIELDS) for name in adience.FOLD_FILES]
    assert [(fold["age"] == "(0, 2)").sum() for fold in folds[:2]] == [960, 84]
    source = pd.concat([fold.assign(fold=i) for i, fold in enumerate(folds)])
    assert len(source) == 19487
    assert source["age"].value_counts().reindex(list(adience.STRICT)).to_dict() == ADIENCE_COUNTS
    assert source["gender"].value_counts().to_dict() == {"f": 9411, "m": 8192, "u": 1100, "": 784}
    assert source["face_id"].nunique() == 2284 and source["user_id"].nunique() == 168
    assert (source.groupby("face_id")["fold"].nunique() == 1).all()
    assert (source.groupby("user_id")["fold"].nunique() == 1).all()
    others = source.loc[~source["age"].isin(adience.STRICT), "age"]
    assert others.ne("None").sum() == 1310 and others.nunique() == 23
    assert set(others) - set(adience.MAPPED) == {"None"} and set(adience.MAPPED) <= set(source["age"])


@pytest.mark.parametrize("labels, kept, aged", [("strict", 18657, 17321), ("mapped", 18662, 18622)])
def test_real_adience_table(labels, kept, aged):
    loaded = adience.load(real("adience/fold_0_data.txt").parent, labels=labels, check_images=False)
    told = loaded.ledger["reason"].value_counts().to_dict()
    assert told == {"repeated row": 117, "no usable label": 19370 - kept}
    assert len(loaded.table) == kept and loaded.table["age_low"].notna().sum() == aged
    assert not loaded.table["path"].duplicated().any()
    assert (loaded.table.groupby("subject")["fold"].nunique() == 1).all()
    age = task_labels(loaded.table, "age", config.AGE_GROUPS["adience"])
    assert len(age.table) == aged
    assert task_labels(loaded.table, "gender").table["label"].value_counts().to_dict() == {0: 9368, 1: 8124}


def test_real_adience_pictures(tmp_path):
    archive = real("adience/faces_sample.tar")
    with tarfile.open(archive) as tar:
        pictures = [member for member in tar if member.isfile() and member.name.endswith(".jpg")]
        folder = tmp_path / pictures[0].name.split("/faces/")[0] if "/faces/" in pictures[0].name else tmp_path
        tar.extractall(tmp_path, members=pictures[:5], filter="data")
    for name in adience.FOLD_FILES:
        (folder / name).write_bytes((archive.parent / name).read_bytes())
    loaded = adience.load(folder)
    assert len(loaded.table) + len(loaded.ledger) == 19487
    assert 1 <= len(loaded.table) <= 5
    assert all((folder / path).is_file() for path in loaded.table["path"])


@pytest.mark.slow
def test_real_wiki_funnel():
    """The known counts hold over all records, whatever else is wrong with them; ages count from 1 July."""
    funnel = imdb_wiki.count_dropped(real("imdb_wiki/wiki.mat").parent).set_index("reason")
    assert funnel["records"].to_dict() == {
        "all records": 62328,
        "path outside the folder": 0,
        "no face": 18016,
        "second face": 4096,
        "low score": 1319,
        "impossible date": 2,
        "age out of range: above 100": 493,
        "age out of range: below 0": 1288,
        "duplicate image": 0,
    }
    assert funnel["left"].tolist() == [62328, 62328, 44312, 40216, 38923, 38923, 38879, 38874, 38874]


@pytest.mark.slow
def test_real_wiki_table():
    loaded = imdb_wiki.load(real("imdb_wiki/wiki.mat").parent, check_images=False)
    assert (len(loaded.table), len(loaded.ledger)) == (38874, 62328 - 38874)
    assert loaded.table["gender"].value_counts(dropna=False).to_dict() == {"male": 28601, "female": 9537, pd.NA: 736}
    assert (loaded.table["age_low"] == loaded.table["age_high"]).all()
    assert loaded.table["age_low"].between(0, 100).all() and loaded.table["subject"].notna().all()
    assert loaded.table[BOX_COLUMNS].notna().all(axis=None) and (loaded.table[BOX_COLUMNS] >= 0).all(axis=None)
    assert set(split(loaded.table)) == set(SPLITS)


def unpack(archive, folder, wanted, count):
    """The first `count` files of the archive whose names fit, without reading the rest."""
    taken = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and wanted(member.name):
                tar.extract(member, folder, filter="data")
                taken += 1
                if taken == count:
                    return


@pytest.mark.slow
def test_real_utkface_names(tmp_path):
    with tarfile.open(real("utkface.tar")) as tar:
        names = [member.name for member in tar if member.isfile()]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    loaded = utkface.load(tmp_path)
    assert (len(loaded.table), loaded.ledger["reason"].tolist()) == (20719, ["malformed name"] * 3)
    assert (loaded.table["age_low"].min(), loaded.table["age_low"].max()) == (1, 116)


@pytest.mark.slow
def test_real_fairface(tmp_path):
    wanted = ("fairface_label_train.csv", "train/1.webp", "train/2.webp")
    unpack(real("fairface.tar"), tmp_path, lambda name: name.endswith(tuple("FairFace/" + end for end in wanted)), 3)
    loaded = fairface.load(tmp_path)
    assert (len(loaded.table), len(loaded.ledger)) == (2, 39954 - 2)
    assert set(loaded.ledger["reason"]) == {"image missing"}


@pytest.mark.slow
def test_real_allagefaces_names(tmp_path):
    with tarfile.open(real("allagefaces.tar.gz")) as tar:
        names = [member.name for member in tar if member.isfile()]
    for name in names:
        touch(tmp_path / name)
    loaded = data.load("allagefaces", tmp_path)
    assert (len(loaded.table), len(loaded.ledger)) == (10536, 0)
    assert loaded.table["gender"].value_counts().to_dict() == {"female": 5847, "male": 4689}
    assert (loaded.table["age_low"].min(), loaded.table["age_low"].max()) == (2, 80)
    assert (loaded.table["age_low"] == loaded.table["age_high"]).all()
    assert set(split(loaded.table)) == set(SPLITS)
