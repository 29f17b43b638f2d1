"""Short texts in many languages and notations, made of sentences with every subject and predicate."""

# language: (subjects, what joins them to a predicate, predicates)
GRAMMAR: dict[str, tuple[str, str, str]] = {
    "hindi": (
        "लड़का|लड़की|किसान|बूढ़ा माली|मेरा भाई|वह कुत्ता",
        " ",
        "घर में बैठा है।|नदी पर सोता है।|बाज़ार में गाता है।|पेड़ के नीचे रोता है।|पानी पी रहा है।|क्‍षण भर रुका।",
    ),
    "thai": (
        "แม่ของฉัน|พ่อกับน้อง|ครูคนใหม่|เด็กผู้หญิง|หมาตัวใหญ่|เพื่อนบ้าน",
        "",
        "ไปตลาดซื้อปลาเมื่อวานนี้|กินข้าวอยู่ที่บ้านกับพี่|นั่งอ่านหนังสือใต้ต้นไม้|เดินเล่นริมแม่น้ำตอนเย็น|"
        "ไม่ชอบกินผักและผลไม้|นอนหลับอยู่ในห้องใหญ่",
    ),
    "khmer": (
        "ម្ដាយ\u200bខ្ញុំ|ឪពុក\u200bគាត់|ក្មេង\u200bស្រី|គ្រូ\u200bថ្មី|ឆ្កែ\u200bធំ|មិត្ត\u200bខ្ញុំ",
        "\u200b",
        "ទៅ\u200bផ្សារ\u200bទិញ\u200bត្រី។|ញ៉ាំ\u200bបាយ\u200bនៅ\u200bផ្ទះ។|អាន\u200bសៀវភៅ\u200bក្រោម\u200bដើមឈើ។|ដើរ\u200bលេង\u200bមាត់\u200bទន្លេ។|មិន\u200bចូលចិត្ត\u200bបន្លែ។|គេង\u200bក្នុង\u200bបន្ទប់។",
    ),
    "vietnamese": (
        "Mẹ tôi|Bố tôi|Cô giáo mới|Em bé gái|Con chó lớn|Người bạn",
        " ",
        "đi chợ mua cá.|ăn cơm ở nhà.|đọc sách dưới gốc cây.|dạo chơi bên bờ sông.|không thích ăn rau.|"
        "ngủ trong phòng mà má mả mã mạ.",
    ),
    "arabic": (
        "الولد|البنت|المعلّم الجديد|أخي الكبير|كَتَبَ الطالب|كُتُب الجدّة",
        " ",
        "في البيت.|إلى السوق أمس.|تحت الشجرة.|على شاطئ النهر.|مع الأصدقاء اليوم؟|قبل العَشاء والعِشاء.",
    ),
    "persian": (
        "مادرم|پدر او|معلم تازه|دختر کوچک|سگ بزرگ|دوست من",
        " ",
        "به بازار می‌رود.|در خانه غذا می‌خورد.|کتاب‌ها را می‌خواند.|کنار رودخانه قدم می‌زند.|سبزی نمی‌خواهد.|در اتاق خوابیده است.",
    ),
    "chinese": (
        "我妈妈|他的父亲|新来的老师|那个女孩|大狗|我的朋友",
        "",
        "昨天去市场买鱼。|在家里吃饭。|坐在树下看书。|傍晚在河边散步。|不喜欢吃蔬菜。|在大房间里睡觉。",
    ),
    "japanese": (
        "私の母|彼の父|新しい先生|女の子|大きな犬|友だち",
        "は",
        "昨日市場で魚を買いました。|家でご飯を食べます。|木の下で本を読んでいる。|夕方に川べりを散歩した。|やさいがきらいです。|かきとかぎをへやにおく。",
    ),
    "korean": (
        "우리 어머니|그의 아버지|새 선생님|여자 아이|큰 개|내 친구",
        " ",
        "어제 시장에 갔다.|집에서 밥을 먹는다.|나무 밑에서 책을 읽는다.|저녁에 강가를 걷는다.|채소를 싫어한다.|큰 방에서 잔다.",
    ),
    "turkish": (
        "Annem|Babası|Yeni öğretmen|Küçük kız|İri köpek|Ilık rüzgârda arkadaşım",
        " ",
        "dün pazardan balık aldı.|evde yemek yiyor.|ağacın altında kitap okuyor.|akşam nehir kıyısında yürüdü.|"
        "sebze sevmez, hala halâ der.|IŞIK SÖNÜNCE ışık ve isik dedi.",
    ),
    "smiles": (
        "CC(=O)O|c1ccccc1|C1CCCCC1|OCC(O)CO|CN1C=NC2=C1C(=O)N(C)C2|cc",
        "",
        "C(=O)Nc1ccc(O)cc1|Cc1ccc(cc1)C(C)C(=O)O|CCCl|c1cc[nH]c1|[Na+].[Cl-]|CC#N",
    ),
    "protein": (
        "MKTAYIAKQRQISFVKSHFSRQ|MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSF|MSKGEELFTGVVPILVELDGDVNG|"
        "MNIFEMLRIDEGLRLKIYKDTEGYYTIG|MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEAL|MGDVEKGKKIFVQKCAQCHTVEKGG",
        "",
        "LEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKRQTLGQHDFSAGEGLYTHMKALRPDEDRLSP|"
        "TTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFKLLSHCLLVTLAAHLPAEF|"
        "HKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTFSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKDDG",
    ),
    "german": (
        "Meine Mutter|Sein Vater|Der neue Lehrer|Das Mädchen|Ein großer Hund|Die Ärztin",
        " ",
        "kauft schöne Äpfel.|isst schon zu Hause.|liest unter dem Baum.|geht am Fluß spazieren.|mag kein Gemüse.|schläft in MASSEN über Maßen.",
    ),
    "greek": (
        "Η μητέρα μου|Ο πατέρας του|Ο ΝΕΟΣ ΔΑΣΚΑΛΟΣ|Ο νέος δάσκαλος|Ένας σκύλος|Ο φίλος",
        " ",
        "πήγε στην αγορά.|τρώει στο σπίτι.|διαβάζει κάτω από το δέντρο.|περπατά δίπλα στο ποτάμι.|ποτέ ή πότε;|κοιμάται νωρίς.",
    ),
    "hebrew": (
        "אִמָּא שֶׁלִּי|אבא שלו|המורה החדש|הילדה|כלב גדול|סֵפֶר וְסַפָּר",
        " ",
        "הלך לשוק אתמול.|אוכל בבית.|קורא מתחת לעץ.|מטייל ליד הנהר.|לא אוהב ירקות.|ישן בחדר.",
    ),
}  # fmt: skip
LANGUAGES = [*GRAMMAR]


def sentences_in(language: str) -> list[str]:
    """18 or 36 different sentences."""
    subjects, join, predicates = GRAMMAR[language]
    return [s + join + p for s in subjects.split("|") for p in predicates.split("|")]


EMOJI = [
    "👩\u200d👩\u200d👧",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "👍🏽",
    "❤️",
    "🫠",
]  # sequences with joiners, tags, a skin tone; a new one

# texts that are difficult in other ways; each at least ten lines
HOSTILE: dict[str, list[str]] = {
    "one letter": ["a" * n for n in range(1, 30)],
    "digits": [f"{n * 7919} {n}" for n in range(40)],
    "forty characters": ["ab c", "d e", "fg", "h", "i j k", "l", "m", "n o", "p", "q r s t u v"],
    "emoji": [f"{EMOJI[n % len(EMOJI)]} yes{n % 7} 🇩🇪" for n in range(40)],
    "full width": [f"ＡＢＣ ａｂｃ １２{n} abc ABC" for n in range(40)],
    "jamo": ["한국어를 배운다", "각 가 갂", "학교에 간다"] * 10,
    "decomposed": ["cafe\u0301 naïve", "cafe na\u0131ve", "café\u0327 x"] * 10,
    "code": [f"fileName{n} = getItem(Node, node, NODE)[{n}]  # tmp_x" for n in range(40)],
    "mixed": [f"naïve {w} hello мир й и" for lang in LANGUAGES for w in sentences_in(lang)[::9]],
    "controls": ["a\u00adb ab \ufeffc \u200ed\u200f e\u2060f", "x\u0007y z"] * 20,
    "morse": [f"... --- {'.-' * (n % 4)}. / {'- ' * (n % 5)}...- -.. /" for n in range(40)],
    "ogham and new": ["ᚁᚂᚃ ᚄᚅ 𖹀𖹁 𞤀𞤁 𐐀𐐨", "ꓐꓑ ꓒ \ue000\ue001"] * 10,
}
TEXTS = {**{name: sentences_in(name) for name in LANGUAGES}, **HOSTILE}
