use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::GroundTruth;
use crate::{Error, ErrorKind};

/// A COCO annotation file: pictures, their boxes, the names of the classes.
#[derive(Clone, Debug)]
pub struct Annotations {
    /// Pictures in the order of their ids, with their boxes.
    pub pictures: Vec<Picture>,
    /// Class names; a box's `class` counts from 0 in this order, the order of category ids.
    pub categories: Vec<String>,
}

/// One picture and what is on it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its number in the file.
    pub id: u64,
    /// Its file, relative to the folder of pictures.
    pub file_name: String,
    /// Width in pixels, when the file tells.
    pub width: Option<u32>,
    /// Height in pixels, when the file tells.
    pub height: Option<u32>,
    /// Its boxes.
    pub truths: Vec<GroundTruth>,
}

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: i64,
    /// x, y, width, height, pixels.
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

impl Annotations {
    /// Reads a COCO detection file (`instances_*.json`).
    ///
    /// Fails with [`ErrorKind::Input`] when it cannot be read, and with
    /// [`ErrorKind::Damaged`] when it is not such a file or names things it does not have.
    pub fn read(path: &Path) -> Result<Annotations, Error> {
        let text =
            std::fs::read(path).map_err(|e| Error::caused(ErrorKind::Input, path.display(), e))?;
        Self::parse(&text)
            .map_err(|e| Error::new(ErrorKind::Damaged, format!("{}: {e}", path.display())))
    }

    /// Reads the text of a COCO detection file.
    pub fn parse(text: &[u8]) -> Result<Annotations, String> {
        let file: File =
            serde_json::from_slice(text).map_err(|e| format!("not a COCO annotation file: {e}"))?;
        let mut categories = file.categories;
        categories.sort_by_key(|c| c.id);
        if let Some(pair) = categories.windows(2).find(|p| p[0].id == p[1].id) {
            return Err(format!("category {} is there twice", pair[0].id));
        }
        let mut images = file.images;
        images.sort_by_key(|i| i.id);
        if let Some(pair) = images.windows(2).find(|p| p[0].id == p[1].id) {
            return Err(format!("image {} is there twice", pair[0].id));
        }
        let class: HashMap<i64, u32> = categories.iter().zip(0..).map(|(c, i)| (c.id, i)).collect();
        let place: HashMap<u64, usize> =
            images.iter().enumerate().map(|(i, image)| (image.id, i)).collect();
        let mut pictures: Vec<Picture> = images
            .into_iter()
            .map(|i| Picture {
                id: i.id,
                file_name: i.file_name,
                width: i.width,
                height: i.height,
                truths: Vec::new(),
            })
            .collect();
        for (n, a) in file.annotations.iter().enumerate() {
            let Some(&class) = class.get(&a.category_id) else {
                return Err(format!("annotation {n}: no category {}", a.category_id));
            };
            let Some(&i) = place.get(&a.image_id) else {
                return Err(format!("annotation {n}: no image {}", a.image_id));
            };
            let [x, y, w, h] = a.bbox;
            if !(w >= 0.0 && h >= 0.0 && x.is_finite() && y.is_finite()) {
                return Err(format!("annotation {n}: bbox {:?} is not x, y, w, h", a.bbox));
            }
            let truth = GroundTruth { class, bounds: [x, y, x + w, y + h], crowd: a.iscrowd != 0 };
            pictures[i].truths.push(truth);
        }
        Ok(Annotations { pictures, categories: categories.into_iter().map(|c| c.name).collect() })
    }

    /// Turns the classes of all boxes into those of an engine with these labels: by name
    /// where every category's name is a label, else by order where their numbers agree.
    ///
    /// Fails with [`ErrorKind::Usage`] when neither is so.
    pub fn map_to_labels(&mut self, labels: &[String], classes: usize) -> Result<(), Error> {
        let by_name: Vec<Option<u32>> = self
            .categories
            .iter()
            .map(|c| labels.iter().position(|l| l == c).map(|i| i as u32))
            .collect();
        let map: Vec<u32> = if by_name.iter().all(Option::is_some) {
            by_name.into_iter().flatten().collect()
        } else if self.categories.len() == classes && labels.is_empty() {
            (0..classes as u32).collect()
        } else {
            let missing: Vec<&str> = self
                .categories
                .iter()
                .zip(&by_name)
                .filter(|(_, i)| i.is_none())
                .map(|(c, _)| c.as_str())
                .take(8)
                .collect();
            return Err(Error::usage(format!(
                "the annotations' categories are not the engine's classes: {} of {} are not \
                 among its {classes} labels ({}); rebuild the engine with --labels",
                self.categories.len() - by_name.iter().flatten().count(),
                self.categories.len(),
                missing.join(", "),
            )));
        };
        for truth in self.pictures.iter_mut().flat_map(|p| &mut p.truths) {
            truth.class = map[truth.class as usize];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"info": {}, "images": [
        {"id": 7, "file_name": "b.jpg", "width": 4, "height": 3}, {"id": 2, "file_name": "a.jpg"}],
        "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4.5], "area": 13.5},
        {"id": 2, "image_id": 2, "category_id": 5, "bbox": [0, 0, 1, 1], "iscrowd": 1}],
        "categories": [{"id": 90, "name": "mug"}, {"id": 5, "name": "pen"}]}"#;

    #[test]
    fn reads_in_the_order_of_ids() {
        let a = Annotations::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(a.categories, ["pen", "mug"]);
        assert_eq!(a.pictures[0].file_name, "a.jpg");
        assert!(a.pictures[0].truths[0].crowd);
        let t = a.pictures[1].truths[0];
        assert_eq!((t.class, t.bounds), (1, [1.0, 2.0, 4.0, 6.5]));
    }

    #[test]
    fn classes_are_mapped_by_name_or_by_order() {
        let mut a = Annotations::parse(GOOD.as_bytes()).unwrap();
        let labels = ["cup", "mug", "pen"].map(String::from);
        a.map_to_labels(&labels, 3).unwrap();
        assert_eq!(a.pictures[1].truths[0].class, 1);
        assert_eq!(a.pictures[0].truths[0].class, 2);
        let mut a = Annotations::parse(GOOD.as_bytes()).unwrap();
        a.map_to_labels(&[], 2).unwrap();
        assert_eq!(a.pictures[1].truths[0].class, 1);
        let e = a.map_to_labels(&["mug".into(), "cup".into()], 2).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage);
        assert!(e.to_string().contains("pen"), "{e}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (from, to, says) in [
            ("\"category_id\": 5", "\"category_id\": 6", "annotation 1: no category 6"),
            ("\"image_id\": 2", "\"image_id\": 3", "annotation 1: no image 3"),
            ("[1, 2, 3, 4.5]", "[1, 2, -3, 4.5]", "annotation 0: bbox"),
            ("[1, 2, 3, 4.5]", "[1, 2, 3]", "not a COCO annotation file: invalid length 3"),
            ("\"id\": 90", "\"id\": 5", "category 5 is there twice"),
            ("\"id\": 2, \"file", "\"id\": 7, \"file", "image 7 is there twice"),
            ("\"images\"", "\"pictures\"", "missing field `images`"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            let e = Annotations::parse(text.as_bytes()).unwrap_err();
            assert!(e.contains(says), "{from} -> {to}: {e}");
        }
    }
}
